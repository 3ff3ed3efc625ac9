package jobs_test

import (
	"database/sql"
	"encoding/json"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // registers the driver "pgx"
	"github.com/pressly/goose/v3"

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/migrations"
	"github.com/likeness-id/likeness/pkg/jobs"
)

// TestUpgradeDropsRiver opens databases of the time when River woke the
// workers: its tables go, and every job is there, whatever became of it.
func TestUpgradeDropsRiver(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, driver, folder, place, tables string
		dialect                             goose.Dialect
		files                               fs.FS
		version                             int64
		river                               []string
	}{
		{
			name: "sqlite", driver: "sqlite", folder: "sqlite-jobs", place: filepath.Join(t.TempDir(), "jobs.db"),
			dialect: goose.DialectSQLite3, files: migrations.SQLiteJobs, version: 1,
			tables: "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'river%'",
			river: []string{
				`CREATE TABLE river_client (id TEXT PRIMARY KEY)`,
				`CREATE TABLE river_client_queue (client TEXT REFERENCES river_client)`,
				`CREATE TABLE river_job (id INTEGER PRIMARY KEY AUTOINCREMENT, state TEXT)`,
				`INSERT INTO river_job (state) VALUES ('available'), ('running')`,
			},
		}, {
			name: "postgres", driver: "pgx", folder: "postgres", place: pgtest.Database(t, nil),
			dialect: goose.DialectPostgres, files: migrations.Postgres, version: 4,
			tables: "SELECT (SELECT count(*) FROM pg_class WHERE relname LIKE 'river%') + (SELECT count(*) FROM pg_proc WHERE proname LIKE 'river%') + (SELECT count(*) FROM pg_type WHERE typname LIKE 'river%')",
			river: []string{
				`CREATE TYPE river_job_state AS ENUM ('available', 'running')`,
				`CREATE FUNCTION river_job_state_in_bitmask(bitmask bit(8), state river_job_state) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true'`,
				`CREATE TABLE river_job (id bigserial PRIMARY KEY, state river_job_state, states bit(8))`,
				`CREATE UNIQUE INDEX river_job_unique ON river_job (id) WHERE river_job_state_in_bitmask(states, state)`,
				`INSERT INTO river_job (state) VALUES ('available'), ('running')`,
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			db, err := sql.Open(tt.driver, tt.place)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			})
			files, err := fs.Sub(tt.files, tt.folder)
			if err != nil {
				t.Fatal(err)
			}
			p, err := goose.NewProvider(tt.dialect, db, files, goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.UpTo(ctx, tt.version); err != nil {
				t.Fatal(err)
			}
			exec := func(query string, args ...any) {
				t.Helper()
				if _, err := db.ExecContext(ctx, query, args...); err != nil {
					t.Fatalf("%s: %v", query, err)
				}
			}
			for _, statement := range tt.river {
				exec(statement)
			}
			r := request(15)
			params, err := json.Marshal(r.Params)
			if err != nil {
				t.Fatal(err)
			}
			// The worker of the running one is dead.
			want := map[string]jobs.State{"queued": jobs.Succeeded, "running": jobs.Succeeded, "succeeded": jobs.Succeeded, "failed": jobs.Failed, "canceled": jobs.Canceled}
			for state := range want {
				finished := 0
				if state != "queued" && state != "running" {
					finished = 1
				}
				exec(`INSERT INTO style_job (id, tenant, key_id, state, params, check_identity, created_at, finished_at, iterations, problem) VALUES ($1, $2, 'k', $3, $4, 0, 1, $5, 15, $6)`,
					state, tenant, state, string(params), 1<<52*finished, map[bool]string{true: `{"code":"internal","title":"t"}`}[state == "failed"])
				switch state {
				case "queued", "running":
					exec(`INSERT INTO style_blob (job, tenant, kind, n, data) VALUES ($1, $2, 'content', 0, $3), ($1, $2, 'style', 0, $4)`, state, tenant, r.Content, r.Styles[0])
				case "succeeded":
					exec(`INSERT INTO style_blob (job, tenant, kind, n, data) VALUES ($1, $2, 'result', 0, $3)`, state, tenant, r.Content)
				}
			}

			if tt.name == "postgres" {
				if err := migrate(tt.place); err != nil {
					t.Fatal(err)
				}
			}
			o, _ := options()
			s := openAndStart(t, tt.place, o)
			for id, state := range want {
				j := awaitState(t, s, jobs.Job{Tenant: tenant, ID: id}, state)
				switch id {
				case "queued", "running":
					checkPicture(t, s, j, r)
				case "succeeded":
					if data, err := s.Result(ctx, tenant, id); err != nil || string(data) != string(r.Content) {
						t.Errorf("the picture that was there: %d bytes, %v", len(data), err)
					}
				case "failed":
					if j.Problem == nil || !strings.Contains(j.Problem.Code, "internal") {
						t.Errorf("why it failed: %+v", j.Problem)
					}
				}
			}
			var left int
			if err := db.QueryRowContext(ctx, tt.tables).Scan(&left); err != nil || left > 0 {
				t.Errorf("%d things of River are left, %v", left, err)
			}
		})
	}
}
