package pgdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/likeness-id/likeness/migrations"
	"github.com/likeness-id/likeness/pkg/face"
)

// Versions with faults that matter: 0.8.2 mended a parallel build that read
// past its memory (CVE-2026-3172), 0.8.4 graphs that a vacuum left broken.
const soundPgvector = "0.8.4"

// Migrate brings the schema of a database up to date and returns the versions
// before and after. Several that run at once take turns. Unavailable: the
// database is of a newer program, or lacks pgvector.
func Migrate(ctx context.Context, url, passwordFile string) (before, after int64, err error) {
	err = withMigrations(ctx, url, passwordFile, func(p *goose.Provider, _ *sql.DB) error {
		have, want, err := p.GetVersions(ctx)
		if err != nil {
			return err
		}
		before, after = have, want
		if have > want {
			return errSchema(have, want)
		}
		if _, err = p.Up(ctx); HasState(err, insufficientPrivilege, featureNotSupported, undefinedFile) {
			return errNoExtension(err)
		}
		return err
	})
	return before, after, err
}

// CheckSchema refuses a schema that is not this program's, and logs what an
// operator should know about the database. Unavailable: the schema, with what
// to do.
func CheckSchema(ctx context.Context, url, passwordFile string, log *slog.Logger) error {
	return withMigrations(ctx, url, passwordFile, func(p *goose.Provider, db *sql.DB) error {
		have, want, err := p.GetVersions(ctx)
		if err != nil {
			return err
		}
		if have != want {
			return errSchema(have, want)
		}
		var version string
		var older bool
		err = db.QueryRowContext(ctx, `SELECT extversion, string_to_array(extversion, '.')::int[] < string_to_array($1, '.')::int[]
			FROM pg_extension WHERE extname = 'vector'`, soundPgvector).Scan(&version, &older)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return errNoExtension(err)
		case err == nil && older:
			log.Warn("pgvector has known faults in approximate search: update it before graphs are built",
				"version", version, "sound_from", soundPgvector)
		}
		return err
	})
}

// withMigrations runs work with the migrations on a plain connection: there
// may be no vector type yet.
func withMigrations(ctx context.Context, url, passwordFile string, work func(*goose.Provider, *sql.DB) error) (err error) {
	config, err := Config(url, passwordFile)
	if err != nil {
		return err
	}
	var options []stdlib.OptionOpenDB
	if config.BeforeConnect != nil {
		options = append(options, stdlib.OptionBeforeConnect(func(ctx context.Context, c *pgx.ConnConfig) error { return config.BeforeConnect(ctx, c) }))
	}
	// Creating an index on a large table takes its time.
	delete(config.ConnConfig.RuntimeParams, "lock_timeout")
	db := stdlib.OpenDB(*config.ConnConfig, options...)
	defer func() { err = errors.Join(err, db.Close()) }()
	files, err := fs.Sub(migrations.Postgres, "postgres")
	if err != nil {
		return err
	}
	// For five minutes, as is usual, but each second.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker),
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return err
	}
	if err := db.PingContext(ctx); err != nil {
		if face.KindOf(err) == face.Internal {
			return &face.Error{Kind: face.Unavailable, Detail: "the database cannot be reached", Err: err}
		}
		return err
	}
	return work(p, db)
}

func errSchema(have, want int64) error {
	switch {
	case have == 0:
		return face.Errorf(face.Unavailable, "", "the database has no schema yet: run `server migrate`")
	case have < want:
		return face.Errorf(face.Unavailable, "", "the database has schema %d, this program needs %d: run `server migrate`", have, want)
	}
	return face.Errorf(face.Unavailable, "", "the database has schema %d, this program knows %d: it was migrated for a newer one; run that, or restore the backup from before", have, want)
}

func errNoExtension(err error) error {
	return &face.Error{
		Kind:   face.Unavailable,
		Detail: "the database lacks pgvector: install it and have a superuser run CREATE EXTENSION vector",
		Err:    fmt.Errorf("create extension: %w", err),
	}
}
