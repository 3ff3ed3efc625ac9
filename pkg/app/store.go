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

// StoreLocation says where a store is.
type StoreLocation struct {
	// DatabaseURL names a Postgres (postgres://...) or a file (sqlite:PATH);
	// empty is the embedded store of the data folder.
	DatabaseURL string
	// PasswordFile holds the password of a Postgres, when the URL does not.
	PasswordFile string
	DataDir      string
}

// postgres reports whether the place is a Postgres.
func (l StoreLocation) isPostgres() bool {
	scheme, _, _ := strings.Cut(l.DatabaseURL, "://")
	return scheme == "postgres" || scheme == "postgresql"
}

// Name names the store for an operator, without a password, and reports whether
// it is there already. A Postgres is reported to be there: only opening it would
// show. Invalid: the URL names no store of this build.
func (l StoreLocation) Name() (name string, there bool, err error) {
	if l.isPostgres() {
		u, err := url.Parse(l.DatabaseURL)
		if err != nil { // the cause quotes the URL, and with it a password
			return "", false, face.Errorf(face.Invalid, "app.store", "the URL cannot be read")
		}
		return u.Scheme + "://" + u.Host + u.Path, true, nil
	}
	path, err := l.path()
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

// StoreOptions say how a server uses its store. Ballast is for an embedded
// store, and ReadURLs, Search and SearchMemory are for a Postgres.
type StoreOptions struct {
	StoreLocation
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
	if o.isPostgres() {
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

// OpenWhenReachable calls open until it succeeds, as long as the reason is that
// the Postgres cannot be reached or cuts the connection: it may be starting. It
// returns the last error if the next try would begin later than wait from now.
func OpenWhenReachable(ctx context.Context, wait time.Duration, log *slog.Logger, open func() error) error {
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
func OpenKeys(ctx context.Context, l StoreLocation) (KeyStore, error) {
	if l.isPostgres() {
		return postgres.OpenKeys(ctx, l.DatabaseURL, l.PasswordFile)
	}
	path, err := l.makeFolder()
	if err != nil {
		return nil, err
	}
	return sqlite.OpenKeys(ctx, path)
}

// OpenAudit opens the audit chain of a store, beside a server too.
func OpenAudit(ctx context.Context, l StoreLocation) (AuditStore, error) {
	if l.isPostgres() {
		return postgres.Open(ctx, postgres.Options{URL: l.DatabaseURL, PasswordFile: l.PasswordFile, Search: postgres.SearchPgvector})
	}
	path, err := l.makeFolder()
	if err != nil {
		return nil, err
	}
	return sqlite.OpenAudit(ctx, path)
}

// CheckStore looks for what is wrong with a store and calls found for each
// finding. It changes nothing and works beside a server.
func CheckStore(ctx context.Context, l StoreLocation, found func(store.Finding) error) error {
	if l.isPostgres() {
		return postgres.Check(ctx, l.DatabaseURL, l.PasswordFile, found)
	}
	path, err := l.path()
	if err != nil {
		return err
	}
	return sqlite.Check(ctx, path, found)
}

// Migrate brings the schema of a store up to date and returns the versions
// before and after. The embedded store does so by itself whenever it is
// opened; both are 0 then.
func Migrate(ctx context.Context, l StoreLocation) (before, after int64, err error) {
	if l.isPostgres() {
		return postgres.Migrate(ctx, l.DatabaseURL, l.PasswordFile)
	}
	keys, err := OpenKeys(ctx, l)
	if err != nil {
		return 0, 0, err
	}
	return 0, 0, keys.Close()
}

// makeFolder makes the folder of an embedded store.
func (l StoreLocation) makeFolder() (path string, err error) {
	path, err = l.path()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("--data-dir: %w", err)
	}
	return path, nil
}

// Files are the databases of an embedded store. Invalid: it is none.
func (l StoreLocation) Files() (f sqlite.Files, err error) {
	if l.isPostgres() {
		return f, face.Errorf(face.Invalid, "app.store", "the store is a Postgres, which pg_dump backs up: see deploy/README.md")
	}
	if f.Store, err = l.path(); err == nil {
		f.Jobs, err = l.jobsPath()
	}
	return f, err
}

// ballast is the room that is kept free beside an embedded store: so many
// bytes, for all its files together. It is nil for a Postgres.
func (l StoreLocation) ballast(size int64) *ballast.File {
	path, err := l.path()
	if err != nil || l.isPostgres() {
		return nil
	}
	return ballast.Beside(path, size)
}

// jobsPath is the file of the embedded store's style-transfer jobs.
func (l StoreLocation) jobsPath() (string, error) {
	if l.DatabaseURL == "" {
		return filepath.Join(l.DataDir, "jobs.db"), nil
	}
	path, err := l.path()
	return path + "-jobs", err
}

// path is the file of the embedded store.
func (l StoreLocation) path() (string, error) {
	if l.DatabaseURL == "" {
		return filepath.Join(l.DataDir, "likeness.db"), nil
	}
	if path, ok := strings.CutPrefix(l.DatabaseURL, "sqlite:"); ok && path != "" {
		return path, nil
	}
	scheme := "this"
	if u, err := url.Parse(l.DatabaseURL); err == nil && u.Scheme != "" {
		scheme = u.Scheme // never the whole URL: it may hold a password
	}
	return "", face.Errorf(face.Invalid, "app.store", "%s is not a store of this build; sqlite:PATH and postgres://... are", scheme)
}
