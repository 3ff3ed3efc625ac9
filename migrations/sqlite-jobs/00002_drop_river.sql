-- The tables of the library that woke the workers of style-transfer jobs. They
-- hold no jobs: those are in style_job.

-- +goose Up
DROP TABLE IF EXISTS river_client_queue;
DROP TABLE IF EXISTS river_client;
DROP TABLE IF EXISTS river_job;
DROP TABLE IF EXISTS river_leader;
DROP TABLE IF EXISTS river_migration;
DROP TABLE IF EXISTS river_notification;
DROP TABLE IF EXISTS river_queue;
