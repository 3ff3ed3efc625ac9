package sqlite_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/ballast"
	"github.com/likeness-id/likeness/internal/smalldisk"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// openOn opens a store that keeps room free, on a disk that may be full.
func openOn(t *testing.T, path string, room int64) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path, Ballast: ballast.Beside(path, room)})
	if err == nil {
		err = s.AwaitReady(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestEraseOnFullDisk fills a disk, by enrolments and by another program, and
// erases in every way that there is.
func TestEraseOnFullDisk(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), smalldisk.New(t, 24<<20)
	path := filepath.Join(dir, "likeness.db")
	const room, dim = 4 << 20, 256
	s := openOn(t, path, room)
	_, key := face.NewKey(tenant, "stolen", face.Scopes(), time.Time{})
	if err := s.CreateKey(ctx, key); err != nil {
		t.Fatal(err)
	}
	crop := func(seed int) []byte { return bytes.Repeat([]byte(fmt.Sprintf("crop %9d ", seed)), 200) }
	add := func(gallery string, seed int) error {
		subject := fmt.Sprint("s", seed)
		if _, err := s.CreateSubject(ctx, tenant, gallery, face.Subject{ID: subject}); err != nil && !errors.Is(err, face.Conflict) {
			return err
		}
		_, err := s.Enrol(ctx, tenant, gallery, face.Template{
			ID: fmt.Sprint("t", seed), SubjectID: subject, ModelID: model, Embedding: embedding(seed, dim), Crop: crop(seed),
		})
		return err
	}
	for _, g := range []string{"small", "crops", "large"} {
		if _, err := s.CreateGallery(ctx, tenant, face.Gallery{ID: g, StoreImages: g == "crops"}); err != nil {
			t.Fatal(err)
		}
	}
	for seed := range 20 {
		for g, base := range map[string]int{"small": 1000, "crops": 2000} {
			if err := add(g, base+seed); err != nil {
				t.Fatal(err)
			}
		}
	}
	var mu sync.Mutex
	enrolled := 0
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				if err := add("large", 1_000_000*(w+1)+i); err != nil {
					if !errors.Is(err, face.StorageFull) {
						t.Errorf("an enrolment on a full disk: %v", err)
					}
					return
				}
				mu.Lock()
				enrolled++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	empty := smalldisk.Fill(t, dir)
	t.Logf("%d templates fill the disk", enrolled)
	left := func(pieces ...[]byte) (n int) {
		// Another process reads the files, as in TestErasedBytesAreGone.
		all, err := exec.CommandContext(ctx, "sh", "-c", `cat "$0"/likeness.db*`, dir).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pieces {
			if bytes.Contains(all, p) {
				n++
			}
		}
		return n
	}
	number := func(seed int) []byte { return sqlite.EncodeEmbedding(embedding(seed, dim)[100:104]) }
	more := 0
	refused := func(when string) { // sooner or later: the log may have room within
		t.Helper()
		for err := error(nil); err == nil && more < 5000; more++ {
			if err = add("large", 90_000_000+more); err != nil && !errors.Is(err, face.StorageFull) {
				t.Fatalf("an enrolment %s: %v", when, err)
			} else if err == nil {
				enrolled++
			}
		}
	}
	refused("before anything is erased")

	var by store.Actor
	for _, c := range []struct {
		name  string
		erase func() (face.Receipt, error)
		want  face.Receipt
		gone  [][]byte
	}{
		{"a template", func() (face.Receipt, error) {
			return s.DeleteTemplate(ctx, tenant, "small", "s1000", "t1000", by)
		}, face.Receipt{Templates: 1}, [][]byte{number(1000)}},
		{"a subject", func() (face.Receipt, error) {
			return s.DeleteSubject(ctx, tenant, "small", "s1001", by)
		}, face.Receipt{Subjects: 1, Templates: 1}, [][]byte{number(1001)}},
		{"a photo", func() (face.Receipt, error) {
			return s.DeleteSubject(ctx, tenant, "crops", "s2000", by)
		}, face.Receipt{Subjects: 1, Templates: 1, Images: 1}, [][]byte{number(2000), crop(2000)[:50]}},
		{"the photos of a gallery", func() (face.Receipt, error) {
			no := false
			_, err := s.UpdateGallery(ctx, tenant, "crops", store.GalleryChange{StoreImages: &no})
			return face.Receipt{}, err
		}, face.Receipt{}, [][]byte{crop(2001)[:50], crop(2019)[:50]}},
		{"a gallery", func() (face.Receipt, error) {
			return s.DeleteGallery(ctx, tenant, "small", by)
		}, face.Receipt{Subjects: 19, Templates: 18}, [][]byte{number(1002), number(1019)}},
		{"a gallery larger than the room", func() (face.Receipt, error) {
			return s.DeleteGallery(ctx, tenant, "large", by)
		}, face.Receipt{Subjects: -1}, [][]byte{number(1_000_000), number(16_000_000)}},
	} {
		if n := left(c.gone...); n != len(c.gone) {
			t.Fatalf("%s: %d of %d pieces are in the files before", c.name, n, len(c.gone))
		}
		got, err := c.erase()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if c.want.Subjects < 0 { // some were made and never enrolled
			got.Subjects, c.want.Templates = -1, enrolled
		}
		if got.Subjects != c.want.Subjects || got.Templates != c.want.Templates || got.Images != c.want.Images {
			t.Errorf("%s: the receipt says %+v", c.name, got)
		}
		if n := left(c.gone...); n != 0 {
			t.Errorf("%s: %d of %d pieces are in the files after", c.name, n, len(c.gone))
		}
		smalldisk.Fill(t, dir) // and nothing that became free stays so
		if c.name != "a gallery larger than the room" {
			refused("after " + c.name)
		}
	}
	// The operator's tool stops a stolen key, beside the server.
	keys, err := sqlite.OpenKeys(ctx, path)
	if err == nil {
		err = errors.Join(keys.RevokeKey(ctx, key.ID, time.Now()), keys.Close())
	}
	if err != nil {
		t.Errorf("revoking a key: %v", err)
	}
	// And who was to be erased after so many days is.
	if _, err := s.PurgeExpired(ctx, time.Now()); err != nil {
		t.Error(err)
	}
	if _, err := s.VerifyAudit(ctx); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	wantIntegrity(t, path)

	// A server that is started on the full disk erases too, and goes on with
	// everything once there is room.
	s = openOn(t, path, room)
	defer closing(t, s)
	if _, err := s.DeleteSubject(ctx, tenant, "crops", "s2002", by); err != nil {
		t.Errorf("erasing after a start on a full disk: %v", err)
	}
	if n := left(number(2002)); n != 0 {
		t.Error("who was erased is in the files")
	}
	if err := s.Ready(ctx); err != nil {
		t.Errorf("after a start on a full disk: %v", err)
	}
	empty()
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for err := add("crops", 78); err != nil; err = add("crops", 78) {
		if wait.Err() != nil {
			t.Fatalf("with room again: %v", err)
		}
	}
}

// What could not be erased is not acknowledged, where the room that is kept
// cannot be given up either.
func TestEraseWithoutRoom(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	kept := filepath.Join(dir, "kept")
	if err := os.Mkdir(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(ctx, sqlite.Options{
		Path: filepath.Join(dir, "likeness.db"), Ballast: ballast.Beside(filepath.Join(kept, "x"), 1<<20),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, s)
	const people = 300
	for i := range people {
		addSubject(t, s, fmt.Sprint("s", i))
	}
	// A file where the folder was: neither is the ballast there nor can anybody say so.
	if err := errors.Join(os.RemoveAll(kept), os.WriteFile(kept, nil, 0o600), s.LimitPages(ctx, 0)); err != nil {
		t.Fatal(err)
	}
	full := 0
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range people { // some share a commit
		wg.Go(func() {
			id := fmt.Sprint("s", i)
			_, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, id, store.Actor{})
			_, there := s.Subject(ctx, tenant, face.DefaultGallery, id)
			if err != nil && !errors.Is(err, face.StorageFull) {
				t.Errorf("erasing %s: %v", id, err)
			}
			if gone := errors.Is(there, face.NotFound); gone != (err == nil) {
				t.Errorf("%s is gone: %v, and the answer is %v", id, gone, err)
			}
			if err != nil {
				mu.Lock()
				full++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if full == 0 {
		t.Error("the disk was never full")
	}
}

// TestEraseGalleryInPart takes the first step of erasing a gallery on a full disk,
// as where it is cut off then. A restore erases whoever was erased, and nobody else.
func TestEraseGalleryInPart(t *testing.T) {
	t.Parallel()
	ctx, f := t.Context(), place(t)
	const people, step = 20, 7
	s := open(t, f.Store)
	if _, err := s.CreateGallery(ctx, tenant, face.Gallery{ID: "large"}); err != nil {
		t.Fatal(err)
	}
	var records []store.Record
	for i := range people {
		id := fmt.Sprint("s", i)
		records = append(records, store.Record{
			Subject:   face.Subject{ID: id},
			Templates: []face.Template{{ID: id, ModelID: model, Embedding: embedding(i, 64)}},
		})
	}
	if _, err := s.Import(ctx, tenant, "large", records); err != nil {
		t.Fatal(err)
	}
	backup, _ := backUpToTemp(t, f)
	left := func() map[string]bool {
		ids := map[string]bool{}
		if err := s.Export(ctx, tenant, "large", "", func(r store.Record) error {
			ids[r.Subject.ID] = true
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return ids
	}
	if r, err := s.DeleteSubjects(ctx, tenant, "large", step, store.Actor{}); err != nil || r.Subjects != step || r.Templates != step {
		t.Fatalf("DeleteSubjects: %+v, %v", r, err)
	}
	want := left()
	if len(want) != people-step {
		t.Fatalf("%d of %d are left", len(want), people)
	}
	named := 0
	if err := s.AuditTrail(ctx, 0, func(r store.AuditRecord) error {
		if r.Action == store.AuditEraseSubject && r.Gallery == "large" && !want[r.SubjectID] && r.Subjects == 1 && r.Templates == 1 {
			named++
		}
		return nil
	}); err != nil || named != people-len(want) {
		t.Errorf("the records name %d who were erased, not %d: %v", named, people-len(want), err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := sqlite.Restore(ctx, sqlite.RestoreOptions{Files: f, From: backup, Replace: true}); err != nil || r.Unknown != nil {
		t.Fatalf("Restore: %+v, %v", r, err)
	}
	s = open(t, f.Store)
	defer closing(t, s)
	if d := cmp.Diff(want, left()); d != "" {
		t.Error(d)
	}
}
