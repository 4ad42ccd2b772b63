"""What each check of the books found, so that every node can tell of the last.

Revision ID: 0014
Revises: 0012
"""

from alembic import op

revision = "0014"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE books_checks (
            id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_books_checks PRIMARY KEY,
            checked_at timestamptz NOT NULL,
            seconds double precision NOT NULL,
            entries bigint NOT NULL,
            breaks_found bigint NOT NULL,
            breaks jsonb NOT NULL,
            warnings_found bigint NOT NULL,
            warnings jsonb NOT NULL
        )
        """
    )
    op.execute("CREATE INDEX ix_books_checks_checked_at ON books_checks (checked_at)")


def downgrade() -> None:
    op.execute("DROP TABLE books_checks")
