// Package pgtest gives tests a real PostgreSQL with pgvector: databases of
// one shared cluster for what only needs SQL (Database), and clusters of a
// test's own for what kills, restarts and replicates servers (Start).
//
// The programs are those of the folder in LIKENESS_TEST_PG_BIN, else those
// that scripts/postgres.sh finds or makes.
package pgtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/likeness-id/likeness/internal/sharedtest"
)

// patience bounds every wait for a server.
const patience = 60 * time.Second

// Options of a cluster; the zero value is what most tests want.
type Options struct {
	// Settings override the defaults of the function settings, as -c arguments.
	Settings map[string]string
	// Sync turns fsync on. Without it, committed data still survives Kill,
	// because the kernel keeps the pages. Tests cannot cause a power cut.
	Sync bool
}

func settings(o Options) map[string]string {
	s := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": "",
		"fsync":                   "off",
		"synchronous_commit":      "on",
		"wal_level":               "replica",
		"shared_buffers":          "64MB",
		"max_connections":         "300",
		// In the data folder, not in /dev/shm, which is small in containers and
		// keeps the files of a killed server.
		"dynamic_shared_memory_type": "mmap",
	}
	if o.Sync {
		s["fsync"] = "on"
	}
	maps.Copy(s, o.Settings)
	return s
}

// Cluster is a PostgreSQL for one test. Its methods fail the test on an error,
// so call them from the test's goroutine.
type Cluster struct {
	tb       testing.TB
	bin      string
	dir      string // holds data, the log and the lock
	lock     *os.File
	user     *syscall.Credential // nil: the test's own user
	port     int
	password string
	settings map[string]string

	mu     sync.Mutex
	server *server // nil while none runs
}

// server is one postmaster from its start to its end.
type server struct {
	pid  int
	done chan struct{} // closed once it has ended and was waited for
}

// Start makes a cluster and starts it. When the test ends it is gone.
func Start(tb testing.TB, o Options) *Cluster {
	tb.Helper()
	c, err := newCluster(binaries(tb), settings(o))
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	c.owned(tb)
	if err := c.initdb(); err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	c.Start()
	return c
}

// owned ties the cluster to the test.
func (c *Cluster) owned(tb testing.TB) {
	tb.Helper()
	c.tb = tb
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("pgtest: log of the server on port %d:\n%s", c.port, c.log())
		}
		if err := c.remove(); err != nil {
			tb.Errorf("pgtest: %v", err)
		}
	})
}

// BinDir is the folder with PostgreSQL's programs, for a test that runs one.
func BinDir(tb testing.TB) string {
	tb.Helper()
	return binaries(tb)
}

// URL of a database of the cluster, for its superuser.
func (c *Cluster) URL(db string) string {
	return fmt.Sprintf("postgres://postgres:%s@127.0.0.1:%d/%s?sslmode=disable", c.password, c.port, db)
}

// Exec runs sql in the database postgres: several statements when it has no
// arguments.
func (c *Cluster) Exec(sql string, args ...any) {
	c.tb.Helper()
	if err := c.exec(sql, args...); err != nil {
		c.tb.Fatalf("pgtest: %s: %v", sql, err)
	}
}

// Dir is the cluster's folder, which is removed with it.
func (c *Cluster) Dir() string { return c.dir }

// Give makes the server's user the owner of path.
func (c *Cluster) Give(path string) error { return c.give(path) }

// Pid is the process id of the postmaster, 0 when none runs.
func (c *Cluster) Pid() int {
	if s := c.running(); s != nil {
		return s.pid
	}
	return 0
}

// Start starts a cluster that was stopped or killed, on the port it had.
func (c *Cluster) Start() {
	c.tb.Helper()
	if err := c.start(); err != nil {
		c.tb.Fatalf("pgtest: %v\n%s", err, c.log())
	}
}

// Kill kills the server with all its processes at once, as when a machine dies.
func (c *Cluster) Kill() {
	c.tb.Helper()
	if err := c.kill(); err != nil {
		c.tb.Fatalf("pgtest: kill: %v", err)
	}
}

// Mode is a way to stop a server.
type Mode syscall.Signal

// The three ways that PostgreSQL knows: once nobody is connected, at once but
// in order, and without a checkpoint.
const (
	Smart     = Mode(syscall.SIGTERM)
	Fast      = Mode(syscall.SIGINT)
	Immediate = Mode(syscall.SIGQUIT)
)

// Stop stops the server; it is no error that none runs.
func (c *Cluster) Stop(m Mode) {
	c.tb.Helper()
	if err := c.stop(m); err != nil {
		c.tb.Fatalf("pgtest: stop: %v", err)
	}
}

// Standby makes another cluster that follows this one by streaming.
func (c *Cluster) Standby(tb testing.TB) *Cluster {
	tb.Helper()
	s, err := newCluster(c.bin, c.settings)
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	s.password = c.password
	s.owned(tb)
	// The WAL is streamed beside the copy; -R records which server to follow.
	if err := s.tool("pg_basebackup", "-D", s.data(), "-R", "-X", "stream", "-c", "fast", "--no-sync",
		"-h", "127.0.0.1", "-p", strconv.Itoa(c.port), "-U", "postgres"); err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	s.Start()
	return s
}

// Promote makes a standby a server of its own and returns once it takes writes.
func (c *Cluster) Promote() {
	c.tb.Helper()
	c.Exec("SELECT pg_promote(true)")
}

// newCluster makes the folder of a cluster, without data in it.
func newCluster(bin string, settings map[string]string) (*Cluster, error) {
	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	c := &Cluster{bin: bin, password: hex.EncodeToString(secret), settings: settings}
	if os.Getuid() == 0 { // the server refuses to run as root
		var err error
		if c.user, err = serverUser(); err != nil {
			return nil, err
		}
	}
	temp, err := tempDir()
	if err != nil {
		return nil, err
	}
	removeLeftovers(temp)
	if c.dir, err = os.MkdirTemp(temp, "likeness-pg-"); err != nil {
		return nil, err
	}
	err = errors.Join(os.Chmod(c.dir, 0o755), c.hold(), os.Mkdir(c.data(), 0o700), c.give(c.data()))
	if err != nil {
		return nil, errors.Join(err, c.remove())
	}
	return c, nil
}

func serverUser() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
	}
	return nil, errors.New("as root, the user postgres or nobody is needed to run the server")
}

// tempDir is a temporary folder that the server's user can reach.
func tempDir() (string, error) {
	for _, dir := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		if os.Getuid() != 0 || isReachable(dir) {
			return dir, nil
		}
	}
	return "", errors.New("no temporary folder can be reached by other users: set TMPDIR")
}

// isReachable reports whether all users can reach dir.
func isReachable(dir string) bool {
	for {
		if i, err := os.Stat(dir); err != nil || i.Mode()&0o001 == 0 {
			return false
		}
		up := filepath.Dir(dir)
		if up == dir {
			return true
		}
		dir = up
	}
}

// hold takes the lock that marks the folder as used. The file is locked before
// it gets its name, so that removeLeftovers never sees it unlocked.
func (c *Cluster) hold() error {
	f, err := os.OpenFile(filepath.Join(c.dir, "lock.new"), os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	c.lock = f
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB),
		os.Rename(f.Name(), filepath.Join(c.dir, "lock")))
}

// removeLeftovers removes the folders of test binaries that were killed: their
// locks are free, and their servers have ended.
func removeLeftovers(temp string) {
	locks, _ := filepath.Glob(filepath.Join(temp, "likeness-pg-*", "lock"))
	for _, l := range locks {
		f, err := os.OpenFile(l, os.O_RDWR|syscall.O_NOFOLLOW, 0)
		if err != nil {
			continue // of another user, or just removed
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			dir := filepath.Dir(l)
			if os.RemoveAll(filepath.Join(dir, "data")) == nil { // else its server is about to end: next time
				os.RemoveAll(dir)
			}
		}
		f.Close()
	}
}

// give makes the server's user the owner of path.
func (c *Cluster) give(path string) error {
	if c.user == nil {
		return nil
	}
	return os.Chown(path, int(c.user.Uid), int(c.user.Gid))
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

func (c *Cluster) log() string {
	b, _ := os.ReadFile(filepath.Join(c.dir, "log"))
	const most = 4 << 10
	if len(b) > most {
		b = append([]byte("...\n"), b[len(b)-most:]...)
	}
	return string(b)
}

// tool runs one of PostgreSQL's programs to its end.
func (c *Cluster) tool(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, name), args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "PGPASSWORD="+c.password)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.user}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

func (c *Cluster) initdb() error {
	word := filepath.Join(c.dir, "word")
	if err := os.WriteFile(word, []byte(c.password), 0o600); err != nil {
		return err
	}
	defer os.RemoveAll(word)
	if err := c.give(word); err != nil {
		return err
	}
	return c.tool("initdb", "-D", c.data(), "-U", "postgres", "--auth=scram-sha-256", "--pwfile="+word,
		"--locale=C", "--encoding=UTF8", "--no-sync")
}

// errPort says that another process has the port.
var errPort = errors.New("the port is taken")

// start starts a postmaster and waits until it takes connections.
func (c *Cluster) start() error {
	if c.Pid() != 0 {
		return errors.New("the server is running")
	}
	for deadline := time.Now().Add(patience); ; {
		port := c.port
		if port == 0 {
			var err error
			if port, err = freePort(); err != nil {
				return err
			}
		}
		err := c.startOn(port)
		if err == nil {
			c.port = port // for good: URLs name it
		}
		if !errors.Is(err, errPort) || time.Now().After(deadline) {
			return err
		}
	}
}

func (c *Cluster) startOn(port int) error {
	path := filepath.Join(c.dir, "log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	from, err := log.Seek(0, 2)
	if err != nil {
		return err
	}
	args := []string{"-D", c.data(), "-p", strconv.Itoa(port)}
	for _, k := range slices.Sorted(maps.Keys(c.settings)) {
		args = append(args, "-c", k+"="+c.settings[k])
	}
	cmd := exec.CommandContext(context.Background(), filepath.Join(c.bin, "postgres"), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, log, log
	cmd.SysProcAttr = attributes(c.user)
	s := &server{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel ends the server together with the thread that started it
		// (attributes), so this thread must live as long as the server.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(s.done)
		err := cmd.Start()
		if err == nil {
			s.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // the log says why it ended
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	c.mu.Lock()
	c.server = s
	c.mu.Unlock()

	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case <-s.done:
			b, err := os.ReadFile(path)
			if err == nil && bytes.Contains(b[from:], []byte("could not bind")) {
				return errPort
			}
			return errors.New("the server ended as it started")
		case <-timeout.C:
			return errors.Join(errors.New("the server does not get ready"), c.kill())
		case <-tick.C:
			if c.ready(s.pid) {
				return nil
			}
		}
	}
}

// ready reads in postmaster.pid whether the server with this pid takes connections.
func (c *Cluster) ready(pid int) bool {
	lines := c.pidFile()
	if len(lines) < 8 || lines[0] != strconv.Itoa(pid) {
		return false
	}
	// A standby that takes connections writes "ready" too: "standby" is one that does not yet.
	return lines[7] == "ready"
}

func (c *Cluster) pidFile() []string {
	b, _ := os.ReadFile(filepath.Join(c.data(), "postmaster.pid"))
	lines := strings.Split(string(b), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return lines
}

// running is the server, nil when there is none or it has ended.
func (c *Cluster) running() *server {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server != nil {
		select {
		case <-c.server.done:
			c.server = nil
		default:
		}
	}
	return c.server
}

func (c *Cluster) stop(m Mode) error {
	s := c.running()
	if s == nil {
		return nil
	}
	if err := syscall.Kill(s.pid, syscall.Signal(m)); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	select {
	case <-s.done:
		return nil
	case <-time.After(patience):
		return errors.New("the server does not end")
	}
}

func (c *Cluster) kill() error {
	s := c.running()
	if s == nil {
		return nil
	}
	shm := c.sharedMemory()
	// A stopped server starts no more children, so that the list is complete.
	if err := syscall.Kill(s.pid, syscall.SIGSTOP); err != nil {
		return err
	}
	pids, err := children(s.pid)
	for _, pid := range append([]int{s.pid}, pids...) {
		if e := syscall.Kill(pid, syscall.SIGKILL); e != nil && !errors.Is(e, syscall.ESRCH) {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		return err
	}
	<-s.done
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); slices.ContainsFunc(pids, isAlive); <-tick.C {
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end", pids)
		}
	}
	if shm != "" { // a machine that dies takes it along; without a restart nobody else would remove it
		_ = exec.CommandContext(context.Background(), "ipcrm", "-m", shm).Run()
	}
	return nil
}

// sharedMemory is the id of the small System V segment by which a server
// holds its data folder.
func (c *Cluster) sharedMemory() string {
	lines := c.pidFile()
	if len(lines) < 7 {
		return ""
	}
	_, id, _ := strings.Cut(lines[6], " ")
	return strings.TrimSpace(id)
}

// remove ends the server and removes all its files.
func (c *Cluster) remove() error {
	err := c.stop(Immediate)
	if err != nil {
		err = errors.Join(err, c.kill())
	}
	err = errors.Join(err, os.RemoveAll(c.dir))
	if c.lock != nil {
		c.lock.Close()
	}
	return err
}

func (c *Cluster) exec(sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql, args...)
	return errors.Join(err, conn.Close(ctx))
}

// freePort is a free port below those that the system gives to outgoing
// connections, so that a server that restarts gets its port again.
func freePort() (int, error) {
	var err error
	for range 100 {
		var n *big.Int
		if n, err = rand.Int(rand.Reader, big.NewInt(20_000)); err != nil {
			return 0, err
		}
		port := 10_000 + int(n.Int64())
		var l net.Listener
		if l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:"+strconv.Itoa(port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, err
}

// found is the folder of programs, searched once for each process.
var found struct {
	once sync.Once
	bin  string
	why  string // there is none
}

func binaries(tb testing.TB) string {
	tb.Helper()
	found.once.Do(func() {
		found.bin = os.Getenv("LIKENESS_TEST_PG_BIN")
		if found.bin == "" {
			var stderr bytes.Buffer
			cmd := exec.CommandContext(context.Background(), filepath.Join(sharedtest.Root(tb), "scripts", "postgres.sh"), "install")
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				found.why = fmt.Sprintf("PostgreSQL with pgvector: %v\n%s", err, stderr.String())
				return
			}
			found.bin = strings.TrimSpace(string(out))
		}
		if found.bin == "docker" {
			found.why = "PostgreSQL with pgvector on this machine: tests kill and copy it, which they cannot in Docker"
		} else if _, err := os.Stat(filepath.Join(found.bin, "postgres")); errors.Is(err, fs.ErrNotExist) {
			found.why = "PostgreSQL with pgvector: there is none in LIKENESS_TEST_PG_BIN=" + found.bin
		}
	})
	if found.why != "" {
		sharedtest.Missing(tb, found.why)
	}
	return found.bin
}
