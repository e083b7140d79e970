CREATE TABLE orders (
    id               TEXT    NOT NULL PRIMARY KEY,
    customer_id      TEXT    NOT NULL,
    status           TEXT    NOT NULL
        CHECK (status IN ('pending', 'confirmed', 'paid', 'shipped', 'delivered', 'cancelled')),
    currency         TEXT    NOT NULL,
    total_cents      INTEGER NOT NULL CHECK (total_cents >= 0),
    note             TEXT    NOT NULL,
    shipping_address TEXT    NOT NULL,
    version          INTEGER NOT NULL DEFAULT 1,
    created_at       INTEGER NOT NULL, -- microseconds since 1970-01-01 UTC
    updated_at       INTEGER NOT NULL
) STRICT;

CREATE INDEX orders_by_customer ON orders (customer_id, created_at, id);
CREATE INDEX orders_by_status ON orders (status, id);

-- Name and price as they were when the order was placed.
CREATE TABLE order_items (
    order_id         TEXT    NOT NULL REFERENCES orders (id) ON DELETE CASCADE,
    position         INTEGER NOT NULL,
    product_id       TEXT    NOT NULL,
    product_name     TEXT    NOT NULL,
    unit_price_cents INTEGER NOT NULL CHECK (unit_price_cents >= 0),
    quantity         INTEGER NOT NULL CHECK (quantity > 0),
    reservation_id   TEXT    NOT NULL,
    PRIMARY KEY (order_id, position)
) STRICT;
