package pgtest_test

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/likeness-id/likeness/internal/pgtest"
)

// victim says to TestServerEndsWithTheBinary that it is the one to be killed.
const victim = "LIKENESS_PGTEST_VICTIM"

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(pgtest.M{M: m})
}

func connect(tb testing.TB, url string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func countRows(tb testing.TB, url string) (n int) {
	tb.Helper()
	if err := connect(tb, url).QueryRow(tb.Context(), "SELECT count(*) FROM kept").Scan(&n); err != nil {
		tb.Fatal(err)
	}
	return n
}

// eventually polls until the condition holds.
func eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			tb.Fatalf("not within 30 s: %s", what)
		}
	}
}

func TestWhatWasCommittedSurvivesKill(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{})
	url := c.URL("postgres")
	c.Exec("CREATE TABLE kept (n int)")
	for i := range 3 {
		busy := connect(t, url) // a backend that has to die too
		if _, err := busy.Exec(t.Context(), "INSERT INTO kept VALUES ($1)", i); err != nil {
			t.Fatal(err)
		}
		pid := c.Pid()
		c.Kill()
		if err := busy.Ping(t.Context()); err == nil {
			t.Fatal("a backend outlived Kill")
		}
		if c.Pid() != 0 {
			t.Fatal("a killed cluster has a pid")
		}
		c.Start()
		if c.Pid() == pid {
			t.Fatal("the server that started is the one that was killed")
		}
		if got := countRows(t, url); got != i+1 {
			t.Fatalf("after kill %d there are %d rows", i+1, got)
		}
	}
}

func TestStopModes(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{Sync: true, Settings: map[string]string{"max_connections": "20"}})
	for _, mode := range []pgtest.Mode{pgtest.Smart, pgtest.Fast, pgtest.Immediate} {
		c.Stop(mode)
		c.Stop(mode) // none runs
		c.Start()
	}
	conn := connect(t, c.URL("postgres"))
	for name, want := range map[string]string{"max_connections": "20", "fsync": "on", "synchronous_commit": "on"} {
		var got string
		if err := conn.QueryRow(t.Context(), "SELECT current_setting($1)", name).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q (%v), want %q", name, got, err, want)
		}
	}
}

func TestStandbyFollowsAndPromotes(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{})
	c.Exec("CREATE TABLE kept (n int)")
	s := c.Standby(t)
	c.Exec("INSERT INTO kept VALUES (1)")
	eventually(t, "the standby has the row", func() bool { return countRows(t, s.URL("postgres")) == 1 })
	_, err := connect(t, s.URL("postgres")).Exec(t.Context(), "INSERT INTO kept VALUES (2)")
	if err == nil {
		t.Fatal("a standby took a write")
	}
	c.Kill()
	s.Promote()
	s.Exec("INSERT INTO kept VALUES (2)")
	if got := countRows(t, s.URL("postgres")); got != 2 {
		t.Fatalf("%d rows after the promotion, want 2", got)
	}
}

func migrate(url string) error {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE EXTENSION vector; CREATE TABLE kept (n int, v halfvec(3))")
	return errors.Join(err, conn.Close(ctx))
}

func TestDatabasesAreApart(t *testing.T) {
	t.Parallel()
	for range 4 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t, migrate)
			if got := countRows(t, url); got != 0 {
				t.Fatalf("a fresh database has %d rows", got)
			}
			conn := connect(t, url)
			if _, err := conn.Exec(t.Context(), "INSERT INTO kept VALUES (1, '[1,0,0]'), (2, '[0,1,0]')"); err != nil {
				t.Fatal(err)
			}
			var nearest int
			if err := conn.QueryRow(t.Context(), "SELECT n FROM kept ORDER BY v <#> '[0,2,0]' LIMIT 1").Scan(&nearest); err != nil || nearest != 2 {
				t.Fatalf("nearest is %d (%v), want 2", nearest, err)
			}
		})
	}
	t.Run("empty", func(t *testing.T) {
		t.Parallel()
		var tables int
		err := connect(t, pgtest.Database(t, nil)).QueryRow(t.Context(),
			"SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").Scan(&tables)
		if err != nil || tables != 0 {
			t.Fatalf("an empty database has %d tables (%v)", tables, err)
		}
	})
}

// TestServerEndsWithTheBinary kills a test binary, which is this one again.
func TestServerEndsWithTheBinary(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Log("only Linux ends a server with the process that started it")
		return
	}
	if os.Getenv(victim) != "" {
		if _, err := os.Stdout.WriteString("URL " + pgtest.Database(t, nil) + "\n"); err != nil {
			t.Fatal(err)
		}
		select {} // until it is killed
	}
	t.Parallel()
	pgtest.BinDir(t) // without PostgreSQL the victim would be skipped, not this test
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), victim+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var url string
	for lines := bufio.NewScanner(out); url == "" && lines.Scan(); {
		if after, ok := strings.CutPrefix(lines.Text(), "URL "); ok {
			url = after
		} else {
			t.Logf("the victim: %s", lines.Text())
		}
	}
	if url == "" {
		t.Fatal("the victim ended without a database")
	}
	var dir string
	if err := connect(t, url).QueryRow(t.Context(), "SHOW data_directory").Scan(&dir); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "the server has ended", func() bool {
		conn, err := pgx.Connect(t.Context(), url)
		if err == nil {
			_ = conn.Close(t.Context())
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	pgtest.Start(t, pgtest.Options{}) // sweeps
	eventually(t, "the folder of the killed test is gone", func() bool {
		_, err := os.Stat(dir)
		return errors.Is(err, fs.ErrNotExist)
	})
}

// A machine without PostgreSQL skips what needs it, and says so; CI may not.
func TestWithoutPostgres(t *testing.T) {
	t.Parallel()
	for ci, want := range map[string]struct {
		passes bool
		says   string
	}{
		"":     {true, "skipped: needs PostgreSQL"},
		"true": {false, "CI lacks PostgreSQL"},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.skip=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), "LIKENESS_TEST_PG_BIN=none", "CI="+ci)
		out, err := cmd.CombinedOutput()
		if passes := err == nil; passes != want.passes || !strings.Contains(string(out), want.says) {
			t.Errorf("CI=%q: %v\n%s", ci, err, out)
		}
	}
}
