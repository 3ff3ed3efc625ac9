package jobs_test

import (
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite" // another hand at the file

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/jobs"
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
	s := begun(t, place, o)
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
	s := begun(t, url, o)
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
