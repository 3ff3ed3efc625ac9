package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// place is a folder for a store with its jobs, whose file has one table.
func place(t *testing.T) sqlite.Files {
	t.Helper()
	dir := t.TempDir()
	f := sqlite.Files{Store: filepath.Join(dir, "likeness.db"), Jobs: filepath.Join(dir, "jobs.db")}
	sqlExec(t, f.Jobs, "PRAGMA journal_mode = WAL", "CREATE TABLE job (n INTEGER)")
	return f
}

func backUpToTemp(t *testing.T, f sqlite.Files) (dir string, m sqlite.Manifest) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "backup")
	m, err := sqlite.Backup(t.Context(), sqlite.BackupOptions{Files: f, To: dir})
	if err != nil {
		t.Fatal(err)
	}
	return dir, m
}

// restoreToTemp is a place to which a backup was restored.
func restoreToTemp(t *testing.T, from string) sqlite.Files {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "new")
	f := sqlite.Files{Store: filepath.Join(dir, "likeness.db"), Jobs: filepath.Join(dir, "jobs.db")}
	if r, err := sqlite.Restore(t.Context(), sqlite.RestoreOptions{Files: f, From: from}); err != nil || r.Unknown == nil {
		t.Fatalf("Restore: %+v, %v", r, err)
	}
	return f
}

// queryInt is the one number that a query gives.
func queryInt(t *testing.T, path, query string) (n int) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, db)
	if err := db.QueryRow(query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestBackupBesideAWriter backs a store up of which somebody else has the lock
// when the copy is done: they scrub what they move into the file.
func TestBackupBesideAWriter(t *testing.T) {
	t.Parallel()
	ctx, f := t.Context(), place(t)
	s := open(t, f.Store)
	defer closing(t, s)
	addSubject(t, s, "ann")
	db, err := sql.Open("sqlite", f.Store)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, db)
	other, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, other)
	begin := sync.OnceFunc(func() {
		if _, err := other.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
			t.Error(err)
		}
	})
	_, err = sqlite.Backup(ctx, sqlite.BackupOptions{
		Files: f, To: filepath.Join(t.TempDir(), "backup"), Progress: func(int64, int64) { begin() },
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := other.ExecContext(ctx, "ROLLBACK"); err != nil {
		t.Error(err)
	}
}

// TestBackup backs a store up while it is written to: what was acknowledged
// before is in the copy, and both files are of one moment.
func TestBackup(t *testing.T) {
	t.Parallel()
	ctx, f := t.Context(), place(t)
	s := open(t, f.Store)
	defer closing(t, s)
	for i := range 300 { // so that pages are split, and rows moved
		addSubject(t, s, fmt.Sprint("old", i))
		if err := enrol(s, fmt.Sprint("old", i), fmt.Sprint("old", i), embedding(i, 256)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 200 {
		if _, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, fmt.Sprint("old", i), store.Actor{}); err != nil {
			t.Fatal(err)
		}
	}
	jobs, err := sql.Open("sqlite", "file:"+f.Jobs+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, jobs)
	var (
		mu     sync.Mutex
		acked  []string
		wg     sync.WaitGroup
		enough = make(chan struct{})
	)
	ready := make(chan struct{})
	wg.Go(func() { // one row here, then one there
		for i := 1; ; i++ {
			select {
			case <-enough:
				return
			default:
			}
			if i == 20 {
				close(ready)
			}
			addSubject(t, s, fmt.Sprint("pair", i))
			if _, err := jobs.Exec("INSERT INTO job VALUES (?)", i); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-enough:
					return
				default:
				}
				id := fmt.Sprintf("w%d-%d", w, i)
				addSubject(t, s, id)
				if err := enrol(s, id, id, embedding(1000*(w+1)+i, 256)); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acked = append(acked, id)
				mu.Unlock()
			}
		})
	}
	<-ready
	mu.Lock()
	before := slices.Clone(acked)
	mu.Unlock()
	dir := filepath.Join(t.TempDir(), "deep")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var told int64
	m, err := sqlite.Backup(ctx, sqlite.BackupOptions{Files: f, To: filepath.Join(dir, "b"), Progress: func(done, total int64) {
		if done < told || done > total {
			t.Errorf("%d of %d bytes after %d", done, total, told)
		}
		told = done
	}})
	close(enough)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if told != m.Files["likeness.db"].Bytes+m.Files["jobs.db"].Bytes || m.Audit.Records != 200 {
		t.Errorf("%d bytes were told of, the manifest says %+v", told, m)
	}
	if got, err := os.ReadDir(dir); err != nil || len(got) != 1 {
		t.Errorf("beside the backup lie %v, %v", got, err)
	}
	var names []string
	err = filepath.WalkDir(filepath.Join(dir, "b"), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s may be read by others: %v", path, info.Mode())
		}
		names = append(names, e.Name())
		return err
	})
	if diff := cmp.Diff([]string{"b", "backup.json", "jobs.db", "likeness.db"}, names); err != nil || diff != "" {
		t.Errorf("the backup is %s, %v", diff, err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "b", "likeness.db"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if bytes.Contains(data, sqlite.EncodeEmbedding(embedding(i, 256)[100:104])) {
			t.Errorf("embedding %d, which was erased, is in the backup", i)
		}
	}
	wantScrubbed(t, filepath.Join(dir, "b"))

	copied := restoreToTemp(t, filepath.Join(dir, "b"))
	pairs, inJobs := queryInt(t, copied.Store, "SELECT count(*) FROM subject WHERE id LIKE 'pair%'"), queryInt(t, copied.Jobs, "SELECT count(*) FROM job")
	if pairs != inJobs && pairs != inJobs+1 {
		t.Errorf("the store is after %d changes and the jobs after %d", pairs, inJobs)
	}
	again := open(t, copied.Store)
	defer closing(t, again)
	for _, id := range before {
		if got, err := again.Templates(ctx, tenant, face.DefaultGallery, id, model); err != nil || len(got) != 1 {
			t.Errorf("%s was acknowledged before the backup and is not in it: %v, %v", id, got, err)
		}
	}
}

func TestBackupRefuses(t *testing.T) {
	t.Parallel()
	f := place(t)
	s := open(t, f.Store)
	addSubject(t, s, "a")
	dir, _ := backUpToTemp(t, f)
	addSubject(t, s, "b")
	o := sqlite.BackupOptions{Files: f, To: dir}
	if _, err := sqlite.Backup(t.Context(), o); !errors.Is(err, face.Conflict) {
		t.Errorf("over a backup: %v", err)
	}
	if n := queryInt(t, filepath.Join(dir, "likeness.db"), "SELECT count(*) FROM subject"); n != 1 {
		t.Errorf("the backup has %d subjects", n)
	}
	o.Overwrite = true
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sqlite.Backup(ended, o); err == nil {
		t.Error("a backup that was canceled is no error")
	}
	if _, err := sqlite.Backup(t.Context(), o); err != nil {
		t.Error(err)
	}
	if n := queryInt(t, filepath.Join(dir, "likeness.db"), "SELECT count(*) FROM subject"); n != 2 {
		t.Errorf("the new backup has %d subjects", n)
	}
	none := sqlite.Files{Store: filepath.Join(t.TempDir(), "likeness.db")}
	if _, err := sqlite.Backup(t.Context(), sqlite.BackupOptions{Files: none, To: filepath.Join(t.TempDir(), "x")}); !errors.Is(err, face.NotFound) {
		t.Errorf("of nothing: %v", err)
	}
	if _, err := os.Stat(none.Store); err == nil {
		t.Error("a backup makes a store")
	}
	// What is damaged gets no name.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(f.Store, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteAt(bytes.Repeat([]byte{0xa5}, 4096), 5*16384)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	o.To = filepath.Join(t.TempDir(), "damaged")
	if m, err := sqlite.Backup(t.Context(), o); err == nil {
		t.Errorf("of a damaged store: %+v", m)
	}
	for _, parent := range []string{filepath.Dir(o.To), filepath.Dir(dir)} {
		left, err := os.ReadDir(parent)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range left {
			if e.Name() != "backup" {
				t.Errorf("%s is left", e.Name())
			}
		}
	}
}

// TestBackupReplacesBackupsAlone overwrites what is no backup, or is the store:
// all of it stays.
func TestBackupReplacesBackupsAlone(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]func(t *testing.T, f sqlite.Files) string{
		"the folder of the store": func(_ *testing.T, f sqlite.Files) string { return filepath.Dir(f.Store) },
		"a folder above it":       func(_ *testing.T, f sqlite.Files) string { return filepath.Dir(filepath.Dir(f.Store)) },
		"a store that was a backup": func(t *testing.T, f sqlite.Files) string {
			t.Helper()
			for _, end := range []string{".lock", ".setup"} {
				if err := os.Remove(f.Store + end); err != nil {
					t.Fatal(err)
				}
			}
			write(t, filepath.Join(filepath.Dir(f.Store), "backup.json"))
			return filepath.Dir(f.Store)
		},
		"a store behind a link": func(t *testing.T, f sqlite.Files) string {
			t.Helper()
			dir, _ := backUpToTemp(t, f)
			for _, path := range []string{f.Store, f.Jobs} {
				if err := errors.Join(os.Remove(path), os.Symlink(filepath.Join(dir, filepath.Base(path)), path)); err != nil {
					t.Fatal(err)
				}
			}
			return dir
		},
		"the parent of backups": func(t *testing.T, f sqlite.Files) string {
			t.Helper()
			dir, _ := backUpToTemp(t, f)
			return filepath.Dir(dir)
		},
		"a backup with something else": func(t *testing.T, f sqlite.Files) string {
			t.Helper()
			dir, _ := backUpToTemp(t, f)
			write(t, filepath.Join(dir, "notes"))
			return dir
		},
		"a backup with a folder": func(t *testing.T, f sqlite.Files) string {
			t.Helper()
			dir, _ := backUpToTemp(t, f)
			path := filepath.Join(dir, "jobs.db")
			if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(path, "likeness.db"))
			return dir
		},
		"another folder": func(t *testing.T, f sqlite.Files) string {
			t.Helper()
			dir := t.TempDir()
			write(t, filepath.Join(dir, "likeness.db"))
			return dir
		},
		"a file": func(t *testing.T, f sqlite.Files) string {
			t.Helper()
			path := filepath.Join(t.TempDir(), "backup.json")
			write(t, path)
			return path
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := place(t)
			s := open(t, f.Store)
			addSubject(t, s, "a")
			closing(t, s)
			dir := to(t, f)
			before := listFiles(t, dir)
			_, err := sqlite.Backup(t.Context(), sqlite.BackupOptions{Files: f, To: dir, Overwrite: true})
			if !errors.Is(err, face.Conflict) || !strings.Contains(err.Error(), dir) {
				t.Errorf("Backup: %v", err)
			}
			if d := cmp.Diff(before, listFiles(t, dir)); d != "" {
				t.Error(d)
			}
		})
	}
}

// write makes a file.
func write(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// listFiles is all that is under a path, by its place.
func listFiles(t *testing.T, path string) (all []string) {
	t.Helper()
	if err := filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestRestoreErasesAgain restores a backup over the store that has gone on
// since: whoever was erased stays so.
func TestRestoreErasesAgain(t *testing.T) {
	t.Parallel()
	ctx, f := t.Context(), place(t)
	s := open(t, f.Store)
	for _, g := range []string{"keep", "go"} {
		if _, err := s.CreateGallery(ctx, tenant, face.Gallery{ID: g, StoreImages: true}); err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			id := fmt.Sprintf("%s%d", g, i)
			if _, err := s.CreateSubject(ctx, tenant, g, face.Subject{ID: id}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Enrol(ctx, tenant, g, face.Template{ID: id, SubjectID: id, ModelID: model, Embedding: embedding(i, 64), Crop: []byte("crop " + id)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	by := store.Actor{KeyID: "k", RequestID: "r"}
	erase := func(subject string) {
		t.Helper()
		if _, err := s.DeleteSubject(ctx, tenant, "keep", subject, by); err != nil {
			t.Fatal(err)
		}
	}
	erase("keep3") // before the backup
	_, key := face.NewKey(tenant, "door", face.Scopes(), time.Time{})
	if err := s.CreateKey(ctx, key); err != nil {
		t.Fatal(err)
	}
	sqlExec(t, f.Jobs, "INSERT INTO job VALUES (1)")
	dir, _ := backUpToTemp(t, f)
	sqlExec(t, f.Jobs, "INSERT INTO job VALUES (2)")

	erase("keep1")
	if _, err := s.DeleteTemplate(ctx, tenant, "keep", "keep2", "keep2", by); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DeleteGallery(ctx, tenant, "go", by); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateSubject(ctx, tenant, "keep", face.Subject{ID: "later"}); err != nil {
		t.Fatal(err)
	}
	erase("later") // who is not in the backup
	if err := s.RevokeKey(ctx, key.ID, time.Now()); err != nil {
		t.Fatal(err)
	}
	end, err := s.VerifyAudit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	o := sqlite.RestoreOptions{Files: f, From: dir}
	if _, err := sqlite.Restore(ctx, o); !errors.Is(err, face.Unavailable) {
		t.Errorf("while a server runs: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Restore(ctx, o); !errors.Is(err, face.Conflict) {
		t.Errorf("over a store: %v", err)
	}
	o.Replace = true
	r, err := sqlite.Restore(ctx, o)
	if err != nil || r.Unknown != nil {
		t.Fatalf("Restore: %+v, %v", r, err)
	}
	var again []string
	for _, e := range r.Erased {
		again = append(again, strings.Join([]string{e.Action, e.Gallery, e.SubjectID, e.TemplateID}, " "))
	}
	if diff := cmp.Diff([]string{"subject.erase keep keep1 ", "template.erase keep keep2 keep2", "gallery.erase go  "}, again); diff != "" || r.Revoked != 1 {
		t.Errorf("erased again, and %d keys revoked: %s", r.Revoked, diff)
	}
	if n := queryInt(t, filepath.Join(r.Aside, "jobs.db"), "SELECT count(*) FROM job"); n != 2 {
		t.Errorf("the jobs that were set aside are %d", n)
	}
	if n := queryInt(t, f.Jobs, "SELECT count(*) FROM job"); n != 1 {
		t.Errorf("there are %d jobs", n)
	}
	s = open(t, f.Store)
	defer closing(t, s)
	var got []string
	if err := s.Export(ctx, tenant, "keep", "", func(r store.Record) error {
		got = append(got, fmt.Sprint(r.Subject.ID, " ", len(r.Templates)))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"keep0 1", "keep2 0"}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := s.Gallery(ctx, tenant, "go"); !errors.Is(err, face.NotFound) {
		t.Errorf("the gallery that was erased: %v", err)
	}
	if k, err := s.KeyByHash(ctx, key.Hash); err != nil || k.RevokedAt.IsZero() {
		t.Errorf("the revoked key: %+v, %v", k, err)
	}
	if n, err := s.VerifyAudit(ctx); err != nil || n != end {
		t.Errorf("the chain has %d records, not %d: %v", n, end, err)
	}
	data, err := os.ReadFile(f.Store)
	if err != nil {
		t.Fatal(err)
	}
	for _, crop := range []string{"crop keep1", "crop keep2", "crop keep3", "crop go0"} {
		if bytes.Contains(data, []byte(crop)) {
			t.Errorf("the file holds %q", crop)
		}
	}
	if _, err := s.DeleteSubject(ctx, tenant, "keep", "keep0", by); err != nil { // the chain goes on
		t.Error(err)
	}
}

// TestRestoreUnknown restores where nobody can tell who was erased since.
func TestRestoreUnknown(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, f sqlite.Files){
		"no store": func(t *testing.T, f sqlite.Files) {
			if err := os.Remove(f.Store); err != nil {
				t.Fatal(err)
			}
		},
		"a damaged store": func(t *testing.T, f sqlite.Files) {
			if err := os.WriteFile(f.Store, bytes.Repeat([]byte("no database\n"), 5000), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"another chain": func(t *testing.T, f sqlite.Files) {
			sqlExec(t, f.Store, "UPDATE audit SET subject_id = 'x'")
		},
		"a new store": func(t *testing.T, f sqlite.Files) {
			if err := os.Remove(f.Store); err != nil {
				t.Fatal(err)
			}
			closing(t, open(t, f.Store))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, f := t.Context(), place(t)
			s := open(t, f.Store)
			addSubject(t, s, "a")
			addSubject(t, s, "b")
			if _, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, "b", store.Actor{}); err != nil {
				t.Fatal(err)
			}
			dir, _ := backUpToTemp(t, f)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			change(t, f)
			r, err := sqlite.Restore(ctx, sqlite.RestoreOptions{Files: f, From: dir, Replace: true})
			if err != nil || r.Unknown == nil {
				t.Fatalf("Restore: %+v, %v", r, err)
			}
			s = open(t, f.Store)
			defer closing(t, s)
			if _, err := s.Subject(ctx, tenant, face.DefaultGallery, "a"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRestoreReadsBack restores backups that are not what was written: the
// store that is there stays.
func TestRestoreReadsBack(t *testing.T) {
	t.Parallel()
	flip := func(name string, at int64) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			data[at] ^= 1
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	manifest := func(change func(*sqlite.Manifest)) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, "backup.json")
			text, err := os.ReadFile(path)
			var m sqlite.Manifest
			if err == nil {
				err = json.Unmarshal(text, &m)
			}
			change(&m)
			if err == nil {
				text, err = json.Marshal(m)
			}
			if err == nil {
				err = os.WriteFile(path, text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, change := range map[string]func(*testing.T, string){
		"a bit of the store": flip("likeness.db", 100_000), "a bit of the jobs": flip("jobs.db", 5000),
		"no store": remove("likeness.db"), "no jobs": remove("jobs.db"), "no manifest": remove("backup.json"),
		"an empty manifest": manifest(func(m *sqlite.Manifest) { *m = sqlite.Manifest{} }),
		"a file elsewhere":  manifest(func(m *sqlite.Manifest) { m.Files["../x"] = m.Files["jobs.db"] }),
		"a shorter chain":   manifest(func(m *sqlite.Manifest) { m.Audit.Records++ }),
		"another chain":     manifest(func(m *sqlite.Manifest) { m.Audit.Last = strings.Repeat("00", 32) }),
		"no text":           flip("backup.json", 0),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := place(t)
			s := open(t, f.Store)
			addSubject(t, s, "a")
			dir, _ := backUpToTemp(t, f)
			addSubject(t, s, "b")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			change(t, dir)
			before := fileNames(t, filepath.Dir(f.Store))
			if r, err := sqlite.Restore(t.Context(), sqlite.RestoreOptions{Files: f, From: dir, Replace: true}); err == nil {
				t.Errorf("restored: %+v", r)
			}
			if diff := cmp.Diff(before, fileNames(t, filepath.Dir(f.Store))); diff != "" {
				t.Errorf("files: %s", diff)
			}
			if n := queryInt(t, f.Store, "SELECT count(*) FROM subject"); n != 2 {
				t.Errorf("there are %d subjects", n)
			}
		})
	}
}

// fileNames lists a folder, without the files that are only locked.
func fileNames(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".lock" {
			all = append(all, e.Name())
		}
	}
	return all
}

// TestRestoreCutOff finishes restores that were cut off at each step of the
// moves: no server makes an empty store meanwhile, or mixes two.
func TestRestoreCutOff(t *testing.T) {
	t.Parallel()
	// The moves of a restore, as far as they came.
	moves := [][2]string{
		{"jobs.db", "aside/jobs.db"},
		{"jobs.db.restoring", "jobs.db"},
		{"likeness.db", "aside/likeness.db"},
	}
	for cut := range len(moves) + 1 {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			t.Parallel()
			f := place(t)
			dir := filepath.Dir(f.Store)
			s := open(t, f.Store)
			addSubject(t, s, "a")
			sqlExec(t, f.Jobs, "INSERT INTO job VALUES (1)")
			backup, _ := backUpToTemp(t, f)
			addSubject(t, s, "b")
			sqlExec(t, f.Jobs, "INSERT INTO job VALUES (2)")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"likeness.db", "jobs.db"} {
				data, err := os.ReadFile(filepath.Join(backup, name))
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, name+".restoring"), data, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Mkdir(filepath.Join(dir, "aside"), 0o700); err != nil {
				t.Fatal(err)
			}
			for _, m := range moves[:cut] {
				if err := os.Rename(filepath.Join(dir, m[0]), filepath.Join(dir, m[1])); err != nil {
					t.Fatal(err)
				}
			}
			_, err := sqlite.Open(t.Context(), sqlite.Options{Path: f.Store})
			if !errors.Is(err, face.Unavailable) || !strings.Contains(err.Error(), "likeness restore") {
				t.Errorf("Open: %v", err)
			}
			r, err := sqlite.Restore(t.Context(), sqlite.RestoreOptions{Files: f, From: backup})
			if err != nil || !r.Finished {
				t.Fatalf("Restore: %+v, %v", r, err)
			}
			if n, m := queryInt(t, f.Store, "SELECT count(*) FROM subject"), queryInt(t, f.Jobs, "SELECT count(*) FROM job"); n != 1 || m != 1 {
				t.Errorf("there are %d subjects and %d jobs", n, m)
			}
			closing(t, open(t, f.Store))
		})
	}
}
