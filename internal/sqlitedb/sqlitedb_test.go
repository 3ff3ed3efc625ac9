package sqlitedb_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/internal/sqlitedb"
	"github.com/likeness-id/likeness/pkg/face"
)

func TestLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.lock")
	first, err := sqlitedb.TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info, err)
	}
	if _, err := sqlitedb.TryLock(path); !errors.Is(err, sqlitedb.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("locked twice: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sqlitedb.AwaitLock(ended, path); !errors.Is(err, context.Canceled) || !errors.Is(err, sqlitedb.ErrLocked) {
		t.Errorf("waited until the end: %v", err)
	}
	type outcome struct {
		lock *sqlitedb.Lock
		err  error
	}
	waited := make(chan outcome)
	go func() {
		l, err := sqlitedb.AwaitLock(context.Background(), path)
		waited <- outcome{l, err}
	}()
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	second := <-waited
	if second.err != nil {
		t.Fatal(second.err)
	}
	if err := second.lock.Release(); err != nil {
		t.Error(err)
	}
	if _, err := sqlitedb.TryLock(filepath.Join(t.TempDir(), "no", "folder")); err == nil || errors.Is(err, sqlitedb.ErrLocked) {
		t.Errorf("without a folder: %v", err)
	}
}

func TestDiagnose(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := filepath.Join(dir, "text.db")
	if err := os.WriteFile(text, []byte(strings.Repeat("no database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	whole := filepath.Join(dir, "whole.db")
	// query runs a statement on a connection of its own.
	query := func(path, statement string, pragmas ...string) error {
		db, err := sqlitedb.Open(path, pragmas)
		if err == nil {
			_, err = db.Exec(statement)
			err = errors.Join(err, db.Close())
		}
		return err
	}
	if err := query(whole, "CREATE TABLE t (x)"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		err    error
		kind   face.Kind
		detail string
	}{
		{"no error of SQLite", errors.New("something else"), face.Internal, ""},
		{"no such table", query(whole, "SELECT * FROM u"), face.Internal, ""},
		{"no database", query(text, "SELECT * FROM t"), face.Internal, "the stored data is damaged"},
		{"no folder", query(filepath.Join(dir, "no", "folder.db"), "SELECT 1 FROM t"), face.Unavailable, "the storage cannot be written to"},
		{"read only", query(whole, "INSERT INTO t VALUES (1)", sqlitedb.ReadPragmas()...), face.Unavailable, "the storage cannot be written to"},
		{"full", query(whole, "INSERT INTO t VALUES (zeroblob(100000))", "max_page_count = 3"), face.StorageFull, "the storage is full"},
	} {
		if kind, detail := sqlitedb.Diagnose(tt.err); kind != tt.kind || detail != tt.detail {
			t.Errorf("%s (%v): %v, %q, want %v, %q", tt.name, tt.err, kind, detail, tt.kind, tt.detail)
		}
		if sqlitedb.IsDamaged(tt.err) != (tt.name == "no database") || sqlitedb.IsFull(tt.err) != (tt.name == "full") {
			t.Errorf("%s: taken for another", tt.name)
		}
	}
	if err := query(whole, "BEGIN IMMEDIATE; COMMIT"); err != nil {
		t.Error(err)
	}
}

func TestBusy(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	if err := sqlitedb.CreateFile(path); err != nil {
		t.Fatal(err)
	}
	db, err := sqlitedb.Open(path, sqlitedb.WritePragmas("journal_mode = WAL"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx := t.Context()
	holder, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Close() }() // with the pool
	waiter, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = waiter.Close() }() // with the pool
	if _, err := holder.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(ctx)
	begun := make(chan error)
	go func() { begun <- sqlitedb.BeginBetweenWriters(ended, waiter) }()
	if _, err := holder.ExecContext(ctx, "CREATE TABLE t (x)"); err != nil {
		t.Fatal(err)
	}
	if _, err := holder.ExecContext(ctx, "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-begun; err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := waiter.ExecContext(ctx, "ROLLBACK"); err != nil {
		t.Error(err)
	}
	if busy, frames, moved, err := sqlitedb.Checkpoint(ctx, holder); err != nil || busy || frames != moved {
		t.Errorf("checkpoint: %v, %d of %d, %v", busy, moved, frames, err)
	}
}
