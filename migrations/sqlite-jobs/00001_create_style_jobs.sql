-- +goose Up
-- +goose StatementBegin
-- Style-transfer jobs; River's own tables, which ring for those who work on
-- them, are in this file too. Times are microseconds since 1970 by the
-- database's clock; 0 is never.
CREATE TABLE style_job (
    id             TEXT PRIMARY KEY,
    tenant         TEXT NOT NULL,
    key_id         TEXT NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'canceled')),
    params         TEXT NOT NULL,
    check_identity INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    started_at     INTEGER NOT NULL DEFAULT 0,
    finished_at    INTEGER NOT NULL DEFAULT 0,

    cancel         INTEGER NOT NULL DEFAULT 0, -- somebody asked for its end
    attempt        INTEGER NOT NULL DEFAULT 0, -- guards each write against those who lost the job
    owner          TEXT NOT NULL DEFAULT '',
    beat_at        INTEGER NOT NULL DEFAULT 0,
    run_after      INTEGER NOT NULL DEFAULT 0,
    faults         INTEGER NOT NULL DEFAULT 0, -- transient ones
    losses         INTEGER NOT NULL DEFAULT 0, -- workers that died since the last checkpoint
    spent          INTEGER NOT NULL DEFAULT 0, -- time worked on it

    iteration      INTEGER NOT NULL DEFAULT 0,
    iterations     INTEGER NOT NULL DEFAULT 0,
    width          INTEGER NOT NULL DEFAULT 0,
    height         INTEGER NOT NULL DEFAULT 0,
    shrunk         INTEGER NOT NULL DEFAULT 0,
    loss_total     REAL NOT NULL DEFAULT 0,
    loss_content   REAL NOT NULL DEFAULT 0,
    loss_style     REAL NOT NULL DEFAULT 0,
    loss_tv        REAL NOT NULL DEFAULT 0,
    eta            INTEGER NOT NULL DEFAULT 0,
    saved          INTEGER NOT NULL DEFAULT 0, -- iteration of the checkpoint
    watched_until  INTEGER NOT NULL DEFAULT 0, -- somebody wants previews
    preview        INTEGER NOT NULL DEFAULT 0, -- number of the last one

    problem        TEXT NOT NULL DEFAULT '',
    identity       TEXT NOT NULL DEFAULT ''
) STRICT;
-- +goose StatementEnd

CREATE INDEX style_job_of_tenant ON style_job (tenant, created_at, id);
CREATE INDEX style_job_open ON style_job (state, tenant) WHERE state IN ('queued', 'running');
CREATE INDEX style_job_finished ON style_job (finished_at) WHERE finished_at > 0;

-- +goose StatementBegin
-- What a job was given, and what came of it.
CREATE TABLE style_blob (
    job    TEXT NOT NULL REFERENCES style_job ON DELETE CASCADE,
    tenant TEXT NOT NULL,
    kind   TEXT NOT NULL CHECK (kind IN ('content', 'style', 'mask', 'checkpoint', 'preview', 'result')),
    n      INTEGER NOT NULL,
    data   BLOB NOT NULL,
    PRIMARY KEY (job, kind, n)
) STRICT;
-- +goose StatementEnd
