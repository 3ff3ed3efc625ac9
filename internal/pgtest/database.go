package pgtest

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
)

// shared is the cluster of the test binary, started when the first test asks
// for a database.
var shared struct {
	once    sync.Once
	cluster *Cluster
	err     error
	names   atomic.Int64

	mu        sync.Mutex
	templates map[uintptr]*template
}

// template is a database that others are copies of.
type template struct {
	once sync.Once
	name string
	err  error
}

// M runs the tests of a package that uses Database: its TestMain calls
// goleak.VerifyTestMain(pgtest.M{M: m}).
type M struct{ *testing.M }

// Run runs the tests, then ends the cluster.
func (m M) Run() int {
	code := m.M.Run()
	if shared.cluster == nil {
		return code
	}
	if err := shared.cluster.remove(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return max(code, 1)
	}
	return code
}

// Database is the URL of a fresh database of the shared cluster, dropped when
// the test ends. It is a copy of a template, which migrate fills once for each
// test binary. migrate must be a function of the package (two closures from one
// place count as one) and must close its connections. With nil, the database is
// empty. A package that calls Database has a TestMain that uses M.
func Database(tb testing.TB, migrate func(url string) error) string {
	tb.Helper()
	bin := binaries(tb)
	shared.once.Do(func() {
		c, err := newCluster(bin, settings(Options{}))
		if err != nil {
			shared.err = err
			return
		}
		if shared.err = c.initdb(); shared.err == nil {
			shared.err = c.start()
		}
		if shared.err != nil {
			shared.err = errors.Join(shared.err, errors.New(c.log()), c.remove())
			return
		}
		shared.cluster = c
	})
	if shared.err != nil {
		tb.Fatalf("pgtest: shared cluster: %v", shared.err)
	}
	c, n := shared.cluster, shared.names.Add(1)
	t := templateOf(migrate)
	t.once.Do(func() {
		t.name = fmt.Sprintf("template_%d", n)
		t.err = c.template(t.name, migrate)
	})
	if t.err != nil {
		tb.Fatalf("pgtest: template database: %v", t.err)
	}
	name := fmt.Sprintf("test_%d", n)
	if err := c.exec("CREATE DATABASE " + name + " TEMPLATE " + t.name); err != nil {
		tb.Fatalf("pgtest: %v\n%s", err, c.log())
	}
	tb.Cleanup(func() {
		if err := c.exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			tb.Errorf("pgtest: %v", err)
		}
	})
	return c.URL(name)
}

func templateOf(migrate func(url string) error) *template {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	key := reflect.ValueOf(migrate).Pointer()
	if shared.templates == nil {
		shared.templates = map[uintptr]*template{}
	}
	if shared.templates[key] == nil {
		shared.templates[key] = &template{}
	}
	return shared.templates[key]
}

func (c *Cluster) template(name string, migrate func(url string) error) error {
	if err := c.exec("CREATE DATABASE " + name); err != nil {
		return err
	}
	if migrate == nil {
		return nil
	}
	if err := migrate(c.URL(name)); err != nil {
		return err
	}
	// Nobody may be connected to what is copied.
	return c.exec("ALTER DATABASE " + name + " WITH ALLOW_CONNECTIONS false")
}
