-- What products has yet to hear about reservations. A row is written in the transaction that makes it necessary and
-- removed when products has answered, so that neither a crash nor an outage loses it.
CREATE TABLE stock_changes (
    reservation_id TEXT    NOT NULL PRIMARY KEY,
    order_id       TEXT    NOT NULL,
    product_id     TEXT    NOT NULL,
    quantity       INTEGER NOT NULL CHECK (quantity > 0),
    change         TEXT    NOT NULL CHECK (change IN ('confirm', 'release')),
    attempts       INTEGER NOT NULL DEFAULT 0,
    due_at         INTEGER NOT NULL -- microseconds since 1970-01-01 UTC
) STRICT;

CREATE INDEX stock_changes_by_due_time ON stock_changes (due_at);

-- Answers to requests that had an Idempotency-Key. `number` counts claims, so that the oldest can go first.
CREATE TABLE idempotency_keys (
    number      INTEGER PRIMARY KEY,
    customer_id TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL, -- SHA-256 of the request
    order_id    TEXT,             -- NULL while the first request is at work
    answer      TEXT,             -- the order as it was placed
    claimed_at  INTEGER NOT NULL,
    UNIQUE (customer_id, key)
) STRICT;

CREATE INDEX idempotency_keys_by_customer ON idempotency_keys (customer_id, number);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (claimed_at);

CREATE INDEX orders_by_created_at ON orders (created_at, id);
