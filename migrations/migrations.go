// Package migrations holds the database schemas, one folder per database, as
// the numbered SQL files that goose applies in order. A file that was ever
// released is never changed: the next change is the next number.
package migrations

import "embed"

// SQLite is the schema of the embedded store, in the folder "sqlite".
//
//go:embed sqlite/*.sql
var SQLite embed.FS
