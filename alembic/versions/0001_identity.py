"""identity: users, API keys, logins"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE users (
            id uuid CONSTRAINT pk_users PRIMARY KEY,
            email text NOT NULL,
            name text NOT NULL,
            password_hash text NOT NULL,
            role text NOT NULL,
            created_at timestamptz NOT NULL,
            disabled_at timestamptz,
            CONSTRAINT ck_users_email CHECK (char_length(email) BETWEEN 3 AND 320 AND position('@' IN email) > 1),
            CONSTRAINT ck_users_name CHECK (char_length(name) BETWEEN 1 AND 100),
            CONSTRAINT ck_users_role CHECK (role IN ('user', 'admin'))
        )
        """
    )
    op.execute("CREATE UNIQUE INDEX uq_users_email ON users (lower(email))")
    op.execute("CREATE INDEX ix_users_disabled_at ON users (disabled_at) WHERE disabled_at IS NOT NULL")
    op.execute(
        """
        CREATE TABLE api_keys (
            id uuid CONSTRAINT pk_api_keys PRIMARY KEY,
            user_id uuid NOT NULL CONSTRAINT fk_api_keys_user_id REFERENCES users (id),
            name text NOT NULL,
            prefix text NOT NULL CONSTRAINT uq_api_keys_prefix UNIQUE,
            secret_digest bytea NOT NULL,
            scopes text[] NOT NULL,
            created_at timestamptz NOT NULL,
            expires_at timestamptz,
            last_used_at timestamptz,
            revoked_at timestamptz,
            CONSTRAINT ck_api_keys_name CHECK (char_length(name) BETWEEN 1 AND 100),
            CONSTRAINT ck_api_keys_prefix CHECK (prefix ~ '^[0-9a-z]{12}$'),
            CONSTRAINT ck_api_keys_secret_digest CHECK (octet_length(secret_digest) = 32),
            CONSTRAINT ck_api_keys_scopes CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY[
                'payments:read', 'payments:write', 'wallet:read', 'wallet:write', 'providers:read', 'events:read',
                'payments:admin', 'webhooks:admin', 'config:admin'
            ]::text[])
        )
        """
    )
    op.execute("CREATE INDEX ix_api_keys_user_id ON api_keys (user_id)")
    op.execute(
        """
        CREATE TABLE token_families (
            id uuid CONSTRAINT pk_token_families PRIMARY KEY,
            user_id uuid NOT NULL CONSTRAINT fk_token_families_user_id REFERENCES users (id),
            created_at timestamptz NOT NULL,
            revoked_at timestamptz,
            revoked_reason text,
            CONSTRAINT ck_token_families_revoked CHECK ((revoked_at IS NULL) = (revoked_reason IS NULL)),
            CONSTRAINT ck_token_families_revoked_reason CHECK (revoked_reason IN ('logout', 'reused', 'disabled'))
        )
        """
    )
    op.execute("CREATE INDEX ix_token_families_user_id ON token_families (user_id)")
    op.execute("CREATE INDEX ix_token_families_revoked_at ON token_families (revoked_at) WHERE revoked_at IS NOT NULL")
    op.execute(
        """
        CREATE TABLE refresh_tokens (
            id uuid CONSTRAINT pk_refresh_tokens PRIMARY KEY,
            family_id uuid NOT NULL
                CONSTRAINT fk_refresh_tokens_family_id REFERENCES token_families (id) ON DELETE CASCADE,
            digest bytea NOT NULL CONSTRAINT uq_refresh_tokens_digest UNIQUE,
            created_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL,
            used_at timestamptz,
            CONSTRAINT ck_refresh_tokens_digest CHECK (octet_length(digest) = 32)
        )
        """
    )
    op.execute("CREATE INDEX ix_refresh_tokens_family_id ON refresh_tokens (family_id)")
    op.execute("CREATE INDEX ix_refresh_tokens_expires_at ON refresh_tokens (expires_at)")


def downgrade() -> None:
    op.execute("DROP TABLE refresh_tokens, token_families, api_keys, users")
