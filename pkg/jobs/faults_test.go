package jobs_test

import (
	"bytes"
	"database/sql"
	"errors"
	"image"
	"image/png"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite" // another hand at the file

	"github.com/likeness-id/likeness/internal/ballast"
	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/internal/smalldisk"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/jobs"
	"github.com/likeness-id/likeness/pkg/store"
)

// awaitLog waits until something is logged.
func awaitLog(t *testing.T, log *lines, text string) {
	t.Helper()
	tick, deadline := time.NewTicker(5*time.Millisecond), time.NewTimer(patience)
	defer tick.Stop()
	defer deadline.Stop()
	for !strings.Contains(log.String(), text) {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never logged %q:\n%s", text, log)
		}
	}
}

// TestNoRoom: a picture for which there is no room is kept until there is.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	place := filepath.Join(t.TempDir(), "jobs.db")
	o, log := options()
	g := newGate(12)
	o.Transferrer = walker{step: g.step}
	s := openAndStart(t, place, o)
	r := request(15)
	j := submit(t, s, r)
	g.wait(t)
	other, err := sql.Open("sqlite", "file:"+place+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := other.Exec(`CREATE TRIGGER no_room BEFORE INSERT ON style_blob WHEN NEW.kind = 'result'
		BEGIN SELECT RAISE(ABORT, 'no room'); END`); err != nil {
		t.Fatal(err)
	}
	close(g.open)
	awaitLog(t, log, "could not be written yet")
	if now, err := s.Job(t.Context(), tenant, j.ID); err != nil || now.State != jobs.Running {
		t.Errorf("without room: %+v, %v", now, err)
	}
	if _, err := s.Result(t.Context(), tenant, j.ID); !errors.Is(err, face.NotFinished) {
		t.Errorf("half a result: %v", err)
	}
	if _, err := other.Exec("DROP TRIGGER no_room"); err != nil {
		t.Fatal(err)
	}
	awaitState(t, s, j, jobs.Succeeded)
	checkPicture(t, s, j, r)
}

// TestDatabaseAway kills the database in the middle of a job, and starts it
// again when the picture is made.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{})
	url := c.URL("postgres")
	if err := migrate(url); err != nil {
		t.Fatal(err)
	}
	o, log := options()
	g := newGate(12)
	o.Transferrer = walker{step: g.step}
	s := openAndStart(t, url, o)
	r := request(15)
	j := submit(t, s, r)
	next := submit(t, s, r)
	g.wait(t)
	c.Kill()
	if _, err := s.Submit(t.Context(), r); !errors.Is(err, face.Unavailable) {
		t.Errorf("without a database: %v", err)
	}
	close(g.open)
	awaitLog(t, log, "could not be written yet")
	c.Start()
	for _, j := range []jobs.Job{j, next} {
		awaitState(t, s, j, jobs.Succeeded)
		checkPicture(t, s, j, r)
	}
}

// TestEraseOnFullDisk fills a disk, by jobs and by another program: those that
// are there can be erased, and nothing of their pictures is left.
func TestEraseOnFullDisk(t *testing.T) {
	t.Parallel()
	dir := smalldisk.New(t, 16<<20)
	place := filepath.Join(dir, "jobs.db")
	o, _ := options()
	o.Room = ballast.Beside(place, 6<<20)
	if err := o.Room.Keep(); err != nil {
		t.Fatal(err)
	}
	s := openUntilEnd(t, place, o)
	r := request(12)
	r.Content = noisePicture(t)
	first := submit(t, s, r)
	var err error
	for err == nil {
		_, err = s.Submit(t.Context(), r)
	}
	if !errors.Is(err, face.StorageFull) {
		t.Fatalf("on a full disk: %v", err)
	}
	empty := smalldisk.Fill(t, dir)
	items, _, err := s.List(t.Context(), tenant, store.Page{Limit: 1000})
	if err != nil || len(items) < 3 {
		t.Fatalf("%d jobs: %v", len(items), err)
	}
	holds := func() bool {
		all, err := exec.CommandContext(t.Context(), "sh", "-c", `cat "$0"/jobs.db*`, dir).Output()
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+64 < len(r.Content); i += 1000 { // pages cut some
			if bytes.Contains(all, r.Content[i:i+64]) {
				return true
			}
		}
		return false
	}
	if !holds() {
		t.Fatal("the picture is not in the files to begin with")
	}
	for _, j := range items {
		got, err := s.Delete(t.Context(), tenant, j.ID)
		if err != nil || got.State != jobs.Canceled {
			t.Fatalf("on a full disk: %+v, %v", got, err)
		}
	}
	if holds() {
		t.Error("a picture is still in the files")
	}
	if _, err := s.Job(t.Context(), tenant, first.ID); err != nil {
		t.Error(err)
	}
	empty()
	for end := time.Now().Add(patience); ; {
		if _, err = s.Submit(t.Context(), r); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// TestOpenOnFullDisk opens the jobs on a disk without a byte to spare, where
// not even the process id fits into the file of the lock.
func TestOpenOnFullDisk(t *testing.T) {
	t.Parallel()
	dir := smalldisk.New(t, 16<<20)
	place := filepath.Join(dir, "jobs.db")
	o, _ := options()
	o.Room = ballast.Beside(place, 6<<20)
	if err := o.Room.Keep(); err != nil {
		t.Fatal(err)
	}
	s, err := open(t.Context(), place, o)
	if err != nil {
		t.Fatal(err)
	}
	j := submit(t, s, request(12))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(place+".lock", 0); err != nil { // as earlier programs left it
		t.Fatal(err)
	}
	smalldisk.Fill(t, dir)
	s = openUntilEnd(t, place, o)
	if _, err := open(t.Context(), place, o); !errors.Is(err, face.Unavailable) {
		t.Errorf("opened twice: %v", err)
	}
	if got, err := s.Delete(t.Context(), tenant, j.ID); err != nil || got.State != jobs.Canceled {
		t.Errorf("%+v, %v", got, err)
	}
}

// noisePicture is a picture that takes as much room as it has pixels.
func noisePicture(t *testing.T) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, 400, 400))
	_, _ = rand.NewChaCha8([32]byte{}).Read(img.Pix)
	for i := 3; i < len(img.Pix); i += 4 {
		img.Pix[i] = 255
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
