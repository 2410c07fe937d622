"""approval of clients, invitations, what an audit entry says, and that it is never changed.

Triggers refuse to change an audit entry at all, and to delete one before the six years are over for which accesses must
be accounted for (45 CFR 164.316(b)(2)(i), 164.528). A later migration that copies ``audit_event`` (batch mode of
SQLite) has to make them again: ``tests/unit/server/test_audit_trail.py`` notices.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_SQLITE = (
    "CREATE TRIGGER audit_event_unchanged BEFORE UPDATE ON audit_event "
    "BEGIN SELECT RAISE(ABORT, 'audit_event is append-only'); END",
    "CREATE TRIGGER audit_event_kept BEFORE DELETE ON audit_event WHEN OLD.recorded > datetime('now', '-6 years') "
    "BEGIN SELECT RAISE(ABORT, 'audit_event is append-only'); END",
    # INSERT OR REPLACE would delete without the trigger above
    "CREATE TRIGGER audit_event_not_replaced BEFORE INSERT ON audit_event "
    "WHEN EXISTS (SELECT 1 FROM audit_event WHERE id = NEW.id) "
    "BEGIN SELECT RAISE(ABORT, 'audit_event is append-only'); END",
)
_POSTGRESQL = (
    "CREATE OR REPLACE FUNCTION audit_event_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "IF TG_OP = 'DELETE' AND OLD.recorded <= now() - interval '6 years' THEN RETURN OLD; END IF; "
    "RAISE EXCEPTION 'audit_event is append-only'; END $$",
    "CREATE TRIGGER audit_event_kept BEFORE UPDATE OR DELETE ON audit_event "
    "FOR EACH ROW EXECUTE FUNCTION audit_event_refuse()",
    "CREATE TRIGGER audit_event_not_emptied BEFORE TRUNCATE ON audit_event "
    "FOR EACH STATEMENT EXECUTE FUNCTION audit_event_refuse()",
)


def upgrade() -> None:
    """Apply the migration."""
    op.create_table(
        "auth_invitation",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("uses_left", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("token_hash"),
    )
    with op.batch_alter_table("audit_event", schema=None) as batch_op:
        batch_op.add_column(sa.Column("resource_version", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("persons", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("reason", sa.String(length=255), nullable=True))
        batch_op.add_column(sa.Column("address", sa.String(length=64), nullable=True))
        batch_op.create_index(batch_op.f("ix_audit_event_client_id"), ["client_id"], unique=False)

    with op.batch_alter_table("auth_client", schema=None) as batch_op:
        batch_op.add_column(sa.Column("pending", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(sa.Column("origin", sa.String(length=100), nullable=True))
        batch_op.add_column(sa.Column("requested", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("contacts", sa.Text(), nullable=True))

    for statement in _SQLITE if op.get_bind().dialect.name == "sqlite" else _POSTGRESQL:
        op.execute(statement)


def downgrade() -> None:
    """Take the migration back."""
    if op.get_bind().dialect.name == "sqlite":
        for name in ("unchanged", "kept", "not_replaced"):
            op.execute(f"DROP TRIGGER audit_event_{name}")
    else:
        for name in ("kept", "not_emptied"):
            op.execute(f"DROP TRIGGER audit_event_{name} ON audit_event")
        op.execute("DROP FUNCTION audit_event_refuse()")

    with op.batch_alter_table("auth_client", schema=None) as batch_op:
        batch_op.drop_column("contacts")
        batch_op.drop_column("requested")
        batch_op.drop_column("origin")
        batch_op.drop_column("pending")

    with op.batch_alter_table("audit_event", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_audit_event_client_id"))
        batch_op.drop_column("address")
        batch_op.drop_column("reason")
        batch_op.drop_column("persons")
        batch_op.drop_column("resource_version")

    op.drop_table("auth_invitation")
