-- +goose Up
-- +goose StatementBegin
-- Style-transfer jobs; River's own tables, which ring for those who work on
-- them, come with `server migrate` too. Times are microseconds since 1970 by the
-- database's clock; 0 is never.
CREATE TABLE style_job (
    id             TEXT COLLATE "C" PRIMARY KEY,
    tenant         TEXT COLLATE "C" NOT NULL,
    key_id         TEXT COLLATE "C" NOT NULL,
    state          TEXT COLLATE "C" NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'canceled')),
    params         TEXT COLLATE "C" NOT NULL,
    check_identity INTEGER NOT NULL,
    created_at     BIGINT NOT NULL,
    started_at     BIGINT NOT NULL DEFAULT 0,
    finished_at    BIGINT NOT NULL DEFAULT 0,

    cancel         INTEGER NOT NULL DEFAULT 0, -- somebody asked for its end
    attempt        INTEGER NOT NULL DEFAULT 0, -- guards each write against those who lost the job
    owner          TEXT COLLATE "C" NOT NULL DEFAULT '',
    beat_at        BIGINT NOT NULL DEFAULT 0,
    run_after      BIGINT NOT NULL DEFAULT 0,
    faults         INTEGER NOT NULL DEFAULT 0, -- transient ones
    losses         INTEGER NOT NULL DEFAULT 0, -- workers that died since the last checkpoint
    spent          BIGINT NOT NULL DEFAULT 0, -- time worked on it

    iteration      INTEGER NOT NULL DEFAULT 0,
    iterations     INTEGER NOT NULL DEFAULT 0,
    width          INTEGER NOT NULL DEFAULT 0,
    height         INTEGER NOT NULL DEFAULT 0,
    shrunk         INTEGER NOT NULL DEFAULT 0,
    loss_total     DOUBLE PRECISION NOT NULL DEFAULT 0,
    loss_content   DOUBLE PRECISION NOT NULL DEFAULT 0,
    loss_style     DOUBLE PRECISION NOT NULL DEFAULT 0,
    loss_tv        DOUBLE PRECISION NOT NULL DEFAULT 0,
    eta            BIGINT NOT NULL DEFAULT 0,
    saved          INTEGER NOT NULL DEFAULT 0, -- iteration of the checkpoint
    watched_until  BIGINT NOT NULL DEFAULT 0, -- somebody wants previews
    preview        INTEGER NOT NULL DEFAULT 0, -- number of the last one

    problem        TEXT COLLATE "C" NOT NULL DEFAULT '',
    identity       TEXT COLLATE "C" NOT NULL DEFAULT ''
);
-- +goose StatementEnd

CREATE INDEX style_job_of_tenant ON style_job (tenant, created_at, id);
CREATE INDEX style_job_open ON style_job (state, tenant) WHERE state IN ('queued', 'running');
CREATE INDEX style_job_finished ON style_job (finished_at) WHERE finished_at > 0;

-- +goose StatementBegin
-- What a job was given, and what came of it.
CREATE TABLE style_blob (
    job    TEXT COLLATE "C" NOT NULL REFERENCES style_job ON DELETE CASCADE,
    tenant TEXT COLLATE "C" NOT NULL,
    kind   TEXT COLLATE "C" NOT NULL CHECK (kind IN ('content', 'style', 'mask', 'checkpoint', 'preview', 'result')),
    n      INTEGER NOT NULL,
    data   BYTEA NOT NULL,
    PRIMARY KEY (job, kind, n)
);
-- +goose StatementEnd

-- Pictures do not get smaller.
ALTER TABLE style_blob ALTER COLUMN data SET STORAGE EXTERNAL;
