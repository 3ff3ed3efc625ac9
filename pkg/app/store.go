package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/likeness-id/likeness/internal/ballast"
	"github.com/likeness-id/likeness/internal/pgdb"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/postgres"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// KeyStore is the API keys of a store alone.
type KeyStore interface {
	store.Keys
	io.Closer
}

// AuditStore is the audit chain of a store alone.
type AuditStore interface {
	store.Audit
	io.Closer
}

// Place is where a store is.
type Place struct {
	// DatabaseURL names a Postgres (postgres://...) or a file (sqlite:PATH);
	// empty is the embedded store of the data folder.
	DatabaseURL string
	// PasswordFile holds the password of a Postgres, when the URL does not.
	PasswordFile string
	DataDir      string
}

// postgres reports whether the place is a Postgres.
func (p Place) postgres() bool {
	scheme, _, _ := strings.Cut(p.DatabaseURL, "://")
	return scheme == "postgres" || scheme == "postgresql"
}

// Name is what to call the store before an operator, and whether it is there
// already; a Postgres is said to be, for only opening it shows. Invalid: the
// URL names no store of this build.
func (p Place) Name() (name string, there bool, err error) {
	if p.postgres() {
		u, err := url.Parse(p.DatabaseURL)
		if err != nil { // the cause quotes the URL, and with it a password
			return "", false, face.Errorf(face.Invalid, "app.store", "the URL cannot be read")
		}
		return u.Scheme + "://" + u.Host + u.Path, true, nil
	}
	path, err := p.path()
	if err != nil {
		return "", false, err
	}
	switch _, err = os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return path, false, nil
	case err != nil:
		return path, false, fmt.Errorf("look for the store: %w", err)
	}
	return path, true, nil
}

// StoreOptions say how a server uses its store. The ballast matters to an
// embedded one alone, what follows it to a Postgres.
type StoreOptions struct {
	Place
	Ballast      *ballast.File // room that is kept free; nil: none
	ReadURLs     []string      // streaming replicas
	Search       string        // engine; empty: auto
	SearchMemory int64         // bytes for the index; 0: half of the machine's
	Logger       *slog.Logger
}

// OpenStore opens a store. An embedded one that is not there is made; the
// schema of a Postgres must be there. It returns before searches are answered:
// see [store.Store.Ready].
func OpenStore(ctx context.Context, o StoreOptions) (store.Store, error) {
	if o.postgres() {
		return postgres.Open(ctx, postgres.Options{
			URL: o.DatabaseURL, PasswordFile: o.PasswordFile, ReadURLs: o.ReadURLs,
			Search: o.Search, SearchMemory: o.SearchMemory, Logger: o.Logger,
		})
	}
	path, err := o.makeFolder()
	if err != nil {
		return nil, err
	}
	return sqlite.Open(ctx, sqlite.Options{Path: path, Logger: o.Logger, Ballast: o.Ballast})
}

// Reach calls open, again and again while the Postgres behind it cannot be
// reached or cuts the connection: it may be about to start. It gives up, with
// the last error, when the next try would begin later than wait from now.
func Reach(ctx context.Context, wait time.Duration, log *slog.Logger, open func() error) error {
	end := time.Now().Add(wait)
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := open()
		if err == nil || !pgdb.IsLost(err) || time.Now().Add(pause).After(end) {
			return err
		}
		log.Warn("the database cannot be reached; trying again", "in", pause.String(), "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// OpenKeys opens the keys of a store, beside a server too.
func OpenKeys(ctx context.Context, p Place) (KeyStore, error) {
	if p.postgres() {
		return postgres.OpenKeys(ctx, p.DatabaseURL, p.PasswordFile)
	}
	path, err := p.makeFolder()
	if err != nil {
		return nil, err
	}
	return sqlite.OpenKeys(ctx, path)
}

// OpenAudit opens the audit chain of a store, beside a server too.
func OpenAudit(ctx context.Context, p Place) (AuditStore, error) {
	if p.postgres() {
		return postgres.Open(ctx, postgres.Options{URL: p.DatabaseURL, PasswordFile: p.PasswordFile, Search: postgres.SearchPgvector})
	}
	path, err := p.makeFolder()
	if err != nil {
		return nil, err
	}
	return sqlite.OpenAudit(ctx, path)
}

// CheckStore looks for what is wrong with a store and calls found for each
// finding. It changes nothing and works beside a server.
func CheckStore(ctx context.Context, p Place, found func(store.Finding) error) error {
	if p.postgres() {
		return postgres.Check(ctx, p.DatabaseURL, p.PasswordFile, found)
	}
	path, err := p.path()
	if err != nil {
		return err
	}
	return sqlite.Check(ctx, path, found)
}

// Migrate brings the schema of a store up to date and returns the versions
// before and after. The embedded store does so by itself whenever it is
// opened; both are 0 then.
func Migrate(ctx context.Context, p Place) (before, after int64, err error) {
	if p.postgres() {
		return postgres.Migrate(ctx, p.DatabaseURL, p.PasswordFile)
	}
	keys, err := OpenKeys(ctx, p)
	if err != nil {
		return 0, 0, err
	}
	return 0, 0, keys.Close()
}

// makeFolder makes the folder of an embedded store.
func (p Place) makeFolder() (path string, err error) {
	path, err = p.path()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("--data-dir: %w", err)
	}
	return path, nil
}

// Files are the databases of an embedded store. Invalid: it is none.
func (p Place) Files() (f sqlite.Files, err error) {
	if p.postgres() {
		return f, face.Errorf(face.Invalid, "app.store", "the store is a Postgres, which pg_dump backs up: see deploy/README.md")
	}
	if f.Store, err = p.path(); err == nil {
		f.Jobs, err = p.jobsPath()
	}
	return f, err
}

// ballast is the room that is kept free beside an embedded store: so many
// bytes, for all its files together. It is nil for a Postgres.
func (p Place) ballast(size int64) *ballast.File {
	path, err := p.path()
	if err != nil || p.postgres() {
		return nil
	}
	return ballast.Beside(path, size)
}

// jobsPath is the file of the embedded store's style-transfer jobs.
func (p Place) jobsPath() (string, error) {
	if p.DatabaseURL == "" {
		return filepath.Join(p.DataDir, "jobs.db"), nil
	}
	path, err := p.path()
	return path + "-jobs", err
}

// path is the file of the embedded store.
func (p Place) path() (string, error) {
	if p.DatabaseURL == "" {
		return filepath.Join(p.DataDir, "likeness.db"), nil
	}
	if path, ok := strings.CutPrefix(p.DatabaseURL, "sqlite:"); ok && path != "" {
		return path, nil
	}
	scheme := "this"
	if u, err := url.Parse(p.DatabaseURL); err == nil && u.Scheme != "" {
		scheme = u.Scheme // never the whole URL: it may hold a password
	}
	return "", face.Errorf(face.Invalid, "app.store", "%s is not a store of this build; sqlite:PATH and postgres://... are", scheme)
}
