"""The session with Spark: that of ``spark-submit`` or the platform where there is one, else one for a master."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fhir_gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark import SparkContext

_INSTALL = "pip install 'fhir-gateway[spark]'"
#: The command shows progress itself; and a driver that writes results may take its time to fetch the next ones.
_SETTINGS = {"spark.ui.showConsoleProgress": "false", "spark.python.authenticate.socketTimeout": "600s"}


@contextmanager
def spark_context(master: str | None = None) -> Iterator[SparkContext]:
    """The context of the session that runs already, or of a new one that ends with the block.

    ``master`` is a Spark master URL; None is what ``spark-submit``, the platform or ``spark-defaults.conf`` says.
    ConfigurationError without pyspark, Java, a master, or where the session has no RDDs (Spark Connect).
    """
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError:
        raise ConfigurationError(f"--on spark needs pyspark, which is not installed: {_INSTALL}") from None
    running = SparkSession.getActiveSession()
    # started by spark-submit, a gateway to the JVM is there already
    if running is None and "PYSPARK_GATEWAY_PORT" not in os.environ and not _has_java():
        raise ConfigurationError("--on spark needs Java 17 or newer (JAVA_HOME, or java on the path)")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("fhir-gateway")
    for name, value in _SETTINGS.items():
        builder = builder.config(name, value)
    try:
        session = running or (builder.master(master) if master else builder).getOrCreate()
        context = session.sparkContext
    except (PySparkException, NotImplementedError) as error:
        reason = getattr(error, "getCondition", lambda: None)() or type(error).__name__
        raise ConfigurationError(
            f"Spark gives no session for this ({reason}): name a --spark-master, or submit with spark-submit to a "
            "cluster whose sessions have RDDs"
        ) from None
    try:
        yield context
    finally:
        if running is None:
            session.stop()


def _has_java() -> bool:
    home = os.environ.get("JAVA_HOME")
    return bool(shutil.which("java") or (home and shutil.which("java", path=os.path.join(home, "bin"))))
