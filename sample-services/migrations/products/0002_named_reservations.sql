-- A reservation is named by its caller. Until it is confirmed it expires; then its stock is given back.
-- Those that are there already belong to orders.
ALTER TABLE reservations ADD COLUMN expires_at INTEGER; -- microseconds since 1970-01-01 UTC; NULL: confirmed

CREATE INDEX reservations_by_expiry ON reservations (expires_at) WHERE expires_at IS NOT NULL;

-- Names that were released. A request that comes late for one of them takes nothing.
CREATE TABLE released_reservations (
    id        TEXT    NOT NULL PRIMARY KEY,
    forget_at INTEGER NOT NULL
) STRICT;

CREATE INDEX released_reservations_by_age ON released_reservations (forget_at);
