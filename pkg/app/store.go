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

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
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

// StoreName is what to call a store before an operator, and whether it is
// there already. Invalid: the URL names no store of this build.
func StoreName(databaseURL, dataDir string) (name string, there bool, err error) {
	path, err := databasePath(databaseURL, dataDir)
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

// OpenStore opens the store that the URL names, or the embedded one of the
// data folder; one that is not there is made. It returns before searches are
// answered: see [store.Store.Ready].
func OpenStore(ctx context.Context, databaseURL, dataDir string, log *slog.Logger) (store.Store, error) {
	path, err := makeFolder(databaseURL, dataDir)
	if err != nil {
		return nil, err
	}
	return sqlite.Open(ctx, sqlite.Options{Path: path, Logger: log})
}

// OpenKeys opens the keys of such a store, beside a server too.
func OpenKeys(ctx context.Context, databaseURL, dataDir string) (KeyStore, error) {
	path, err := makeFolder(databaseURL, dataDir)
	if err != nil {
		return nil, err
	}
	return sqlite.OpenKeys(ctx, path)
}

// OpenAudit opens the audit chain of such a store, beside a server too.
func OpenAudit(ctx context.Context, databaseURL, dataDir string) (AuditStore, error) {
	path, err := makeFolder(databaseURL, dataDir)
	if err != nil {
		return nil, err
	}
	return sqlite.OpenAudit(ctx, path)
}

// makeFolder makes the folder of an embedded store.
func makeFolder(databaseURL, dataDir string) (path string, err error) {
	path, err = databasePath(databaseURL, dataDir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("--data-dir: %w", err)
	}
	return path, nil
}

// databasePath is the file of the embedded store.
func databasePath(databaseURL, dataDir string) (string, error) {
	if databaseURL == "" {
		return filepath.Join(dataDir, "likeness.db"), nil
	}
	if path, ok := strings.CutPrefix(databaseURL, "sqlite:"); ok && path != "" {
		return path, nil
	}
	scheme := "this"
	if u, err := url.Parse(databaseURL); err == nil && u.Scheme != "" {
		scheme = u.Scheme // never the whole URL: it may hold a password
	}
	return "", face.Errorf(face.Invalid, "app.store", "%s is not a store of this build; sqlite:PATH is", scheme)
}
