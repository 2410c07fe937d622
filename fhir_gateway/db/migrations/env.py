"""How Alembic runs our migrations: on the connection that ``db.migrate`` opened, in its transaction."""

from typing import Any, Literal

from alembic import context
from sqlmodel.sql.sqltypes import AutoString

from fhir_gateway.db.tables import metadata


def _render(kind: str, item: Any, _context: object) -> str | Literal[False]:
    """Write SQLModel's own string type as plain SQLAlchemy, so that migrations need nothing else."""
    if kind == "type" and isinstance(item, AutoString):
        return f"sa.String(length={item.length})" if item.length else "sa.String()"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata(),
    transactional_ddl=True,  # SQLite too: db.engine begins its transactions explicitly
    render_as_batch=True,  # SQLite cannot alter a column in place
    compare_type=True,
    render_item=_render,
)
with context.begin_transaction():
    context.run_migrations()
