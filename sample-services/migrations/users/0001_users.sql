-- Accounts. `email` is stored in lower case, so UNIQUE means "one account per address".
CREATE TABLE users (
    id            TEXT    NOT NULL PRIMARY KEY,
    email         TEXT    NOT NULL UNIQUE,
    name          TEXT    NOT NULL,
    role          TEXT    NOT NULL CHECK (role IN ('customer', 'staff')),
    password_hash TEXT    NOT NULL,
    version       INTEGER NOT NULL DEFAULT 1,
    created_at    INTEGER NOT NULL, -- microseconds since 1970-01-01 UTC
    updated_at    INTEGER NOT NULL
) STRICT;

CREATE INDEX users_by_created_at ON users (created_at, id);
