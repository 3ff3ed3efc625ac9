// Package migrations holds the database schemas, one folder per database, as
// the numbered SQL files that goose applies in order. A file that was ever
// released is never changed: the next change is the next number.
package migrations

import "embed"

// SQLite is the schema of the embedded store, in the folder "sqlite". Number 5
// is a loop, which SQL has not: it is in pkg/store/sqlite.
//
//go:embed sqlite/*.sql
var SQLite embed.FS

// Postgres is the schema of the Postgres store, in the folder "postgres". It
// needs the extension pgvector, which a superuser may have to create before.
//
//go:embed postgres/*.sql
var Postgres embed.FS

// SQLiteJobs is the schema of the embedded store's style-transfer jobs, which
// have a file of their own, in the folder "sqlite-jobs".
//
//go:embed sqlite-jobs/*.sql
var SQLiteJobs embed.FS
