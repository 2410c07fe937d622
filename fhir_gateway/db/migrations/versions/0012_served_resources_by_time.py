"""served resources by time, state of the search index."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "fhir_search_state",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("ix_fhir_resource_updated", "fhir_resource", ["type", "last_updated", "id"], unique=False)
    op.create_index(
        "ix_fhir_resource_version_updated", "fhir_resource_version", ["type", "last_updated", "id"], unique=False
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_fhir_resource_version_updated", "fhir_resource_version")
    op.drop_index("ix_fhir_resource_updated", "fhir_resource")
    op.drop_table("fhir_search_state")
