-- `number` is the row id that the full-text index points at; it never leaves the database.
CREATE TABLE products (
    number      INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL UNIQUE,
    name        TEXT    NOT NULL,
    description TEXT    NOT NULL,
    category    TEXT    NOT NULL,
    price_cents INTEGER NOT NULL CHECK (price_cents >= 0),
    currency    TEXT    NOT NULL CHECK (length(currency) = 3),
    stock       INTEGER NOT NULL CHECK (stock >= 0),
    version     INTEGER NOT NULL DEFAULT 1,
    created_at  INTEGER NOT NULL, -- microseconds since 1970-01-01 UTC
    updated_at  INTEGER NOT NULL
) STRICT;

CREATE INDEX products_by_category ON products (category, id);
CREATE INDEX products_by_price ON products (price_cents, id);
CREATE INDEX products_by_name ON products (name, id);

-- Stock that is set aside for an order. Deleting a reservation gives the stock back.
CREATE TABLE reservations (
    id         TEXT    NOT NULL PRIMARY KEY,
    product_id TEXT    NOT NULL REFERENCES products (id) ON DELETE CASCADE,
    quantity   INTEGER NOT NULL CHECK (quantity > 0),
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX reservations_by_product ON reservations (product_id);

-- Full-text search for `q`. The index holds no copy of the text; the triggers keep it in step.
CREATE VIRTUAL TABLE products_text USING fts5 (name, description, content = 'products', content_rowid = 'number');

CREATE TRIGGER products_text_insert AFTER INSERT ON products BEGIN
    INSERT INTO products_text (rowid, name, description) VALUES (new.number, new.name, new.description);
END;

CREATE TRIGGER products_text_delete AFTER DELETE ON products BEGIN
    INSERT INTO products_text (products_text, rowid, name, description)
    VALUES ('delete', old.number, old.name, old.description);
END;

CREATE TRIGGER products_text_update AFTER UPDATE OF name, description ON products BEGIN
    INSERT INTO products_text (products_text, rowid, name, description)
    VALUES ('delete', old.number, old.name, old.description);
    INSERT INTO products_text (rowid, name, description) VALUES (new.number, new.name, new.description);
END;
