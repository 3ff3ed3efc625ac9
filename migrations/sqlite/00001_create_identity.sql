-- Row ids are AUTOINCREMENT throughout: an id that a reader looked up a moment
-- ago can then never come to mean another tenant's row. Times are microseconds
-- since 1970 in UTC.

-- +goose Up
CREATE TABLE gallery (
    row_id         INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant         TEXT    NOT NULL,
    id             TEXT    NOT NULL,
    retention_days INTEGER NOT NULL,
    store_images   INTEGER NOT NULL,
    subjects       INTEGER NOT NULL DEFAULT 0, -- kept by triggers
    created_at     INTEGER NOT NULL,
    UNIQUE (tenant, id)
) STRICT;

CREATE TABLE subject (
    row_id      INTEGER PRIMARY KEY AUTOINCREMENT,
    gallery     INTEGER NOT NULL REFERENCES gallery ON DELETE CASCADE,
    id          TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    external_id TEXT    NOT NULL,
    metadata    TEXT, -- a JSON object
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    UNIQUE (gallery, id)
) STRICT;

CREATE TABLE template (
    row_id     INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT    NOT NULL UNIQUE,
    gallery    INTEGER NOT NULL REFERENCES gallery ON DELETE CASCADE, -- the subject's
    subject    INTEGER NOT NULL REFERENCES subject ON DELETE CASCADE,
    model_id   TEXT    NOT NULL,
    embedding  BLOB    NOT NULL, -- float32, little-endian
    quality    REAL    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX template_of_subject ON template (subject);
CREATE INDEX template_by_age ON template (gallery, created_at);

-- What a gallery holds of each model, so that counting and checking the
-- dimension of an embedding need no look at the templates. A row ends with the
-- last template of its model. Kept by triggers.
CREATE TABLE gallery_model (
    gallery   INTEGER NOT NULL REFERENCES gallery ON DELETE CASCADE,
    model_id  TEXT    NOT NULL,
    dimension INTEGER NOT NULL,
    templates INTEGER NOT NULL,
    PRIMARY KEY (gallery, model_id)
) STRICT, WITHOUT ROWID;

-- +goose StatementBegin
CREATE TRIGGER subject_added AFTER INSERT ON subject BEGIN
    UPDATE gallery SET subjects = subjects + 1 WHERE row_id = NEW.gallery;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER subject_erased AFTER DELETE ON subject BEGIN
    UPDATE gallery SET subjects = subjects - 1 WHERE row_id = OLD.gallery;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER template_added AFTER INSERT ON template BEGIN
    INSERT INTO gallery_model (gallery, model_id, dimension, templates)
    VALUES (NEW.gallery, NEW.model_id, length(NEW.embedding) / 4, 1)
    ON CONFLICT DO UPDATE SET templates = templates + 1;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER template_erased AFTER DELETE ON template BEGIN
    UPDATE gallery_model SET templates = templates - 1
    WHERE gallery = OLD.gallery AND model_id = OLD.model_id;
    DELETE FROM gallery_model
    WHERE gallery = OLD.gallery AND model_id = OLD.model_id AND templates = 0;
END;
-- +goose StatementEnd

CREATE TABLE api_key (
    row_id     INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT    NOT NULL UNIQUE,
    tenant     TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    hash       BLOB    NOT NULL UNIQUE, -- SHA-256 of the secret
    scopes     TEXT    NOT NULL, -- separated by spaces
    created_at INTEGER NOT NULL,
    expires_at INTEGER, -- null: never
    revoked_at INTEGER  -- null: not revoked
) STRICT;

CREATE TABLE idempotency (
    tenant      TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL,
    status      INTEGER NOT NULL,
    location    TEXT    NOT NULL,
    body        BLOB    NOT NULL,
    gallery     TEXT    NOT NULL, -- of whom it tells; empty: of nobody
    subject     TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT;
CREATE INDEX idempotency_by_age ON idempotency (created_at);
CREATE INDEX idempotency_by_subject ON idempotency (tenant, gallery, subject);

-- What was erased, by whom. Each row's hash covers the row and the hash before
-- it, so that none can be changed or taken out unnoticed.
CREATE TABLE audit (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT    NOT NULL UNIQUE,
    tenant      TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    key_id      TEXT    NOT NULL,
    request_id  TEXT    NOT NULL,
    action      TEXT    NOT NULL,
    gallery     TEXT    NOT NULL,
    subject_id  TEXT    NOT NULL,
    template_id TEXT    NOT NULL,
    subjects    INTEGER NOT NULL,
    templates   INTEGER NOT NULL,
    images      INTEGER NOT NULL,
    prev_hash   BLOB    NOT NULL,
    hash        BLOB    NOT NULL
) STRICT;
