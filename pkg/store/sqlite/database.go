package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/likeness-id/likeness/internal/ballast"
	"github.com/likeness-id/likeness/internal/sqlitedb"
	"github.com/likeness-id/likeness/migrations"
	"github.com/likeness-id/likeness/pkg/face"
)

const (
	// applicationID marks our files ("LKNS" in ASCII), so that a database of
	// another program is not taken for an empty one of ours.
	applicationID = 0x4c4b4e53

	// pageSize keeps a row with its embedding on one page: at the default of
	// 4 KiB a 512-float embedding leaves half of every page unused.
	pageSize = 16 << 10

	// maxBatch is how many writes share one commit at most.
	maxBatch = 128

	// checkpointRetry is how long after a reader stood in the way of an
	// erasing checkpoint the next try comes.
	checkpointRetry = time.Second

	// logLimit is the size of the write-ahead log, in bytes, from which on it
	// is moved into the file.
	logLimit = 16 << 20
)

// database is the file: one connection that writes, fed by a queue, and some
// that read.
type database struct {
	log     *slog.Logger
	wal     string // the write-ahead log's file
	ballast *ballast.File
	read    *sql.DB
	readers chan *connection // those that are idle
	write   *sql.DB

	queue     chan *change
	closing   chan struct{} // closed by close
	unread    chan struct{} // closed when the readers are closed
	stopped   chan struct{} // closed when the writer is done
	closeOnce sync.Once
	closeErr  error
	left      error // why the file is not whole without the log, once it is closed

	// landing is held while a transaction is committed and what it means for
	// the memory is done. Who holds it for reading sees both or neither.
	landing sync.RWMutex
}

// A change is one caller's part of a transaction.
type change struct {
	ctx    context.Context
	work   func(*transaction) error
	urgent bool // it is carried out on a full disk, too
	err    error
	done   chan struct{}
}

// prepare makes the file when there is none and brings its schema up to date.
// With serve it takes the lock that a server holds, which the caller releases.
func prepare(ctx context.Context, path string, serve bool) (_ *sqlitedb.Lock, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	setup, err := sqlitedb.AwaitLock(ctx, path+".setup")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, setup.Release()) }()

	var serving *sqlitedb.Lock
	if serve {
		if serving, err = sqlitedb.TryLock(path + ".lock"); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, serving.Release())
			}
		}()
	}
	if _, err := os.Lstat(path + restoring); err == nil {
		return nil, errRestoring
	}
	if err := sqlitedb.CreateFile(path); err != nil {
		return nil, err
	}
	db, err := openWriter(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	if err := markOurs(ctx, db); err != nil {
		return nil, err
	}
	if err := migrate(ctx, db, path, serve); err != nil {
		return serving, err
	}
	// Closing the last connection moves the log into the file, be it one that
	// a killed process left.
	conn, err := db.Conn(ctx)
	if err != nil {
		return serving, err
	}
	return serving, errors.Join((&scrubber{}).scrub(ctx, conn, path+"-wal"), conn.Close())
}

// markOurs marks an empty file as ours and refuses one that is somebody else's.
func markOurs(ctx context.Context, db *sql.DB) error {
	var id, tables int
	if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return err
	}
	if id == applicationID {
		return nil
	}
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return err
	}
	if id != 0 || tables != 0 {
		return errors.New("the file is a database of another program")
	}
	// The page size has to be there before the journal mode writes the first page.
	for _, pragma := range []string{
		fmt.Sprintf("page_size = %d", pageSize),
		"journal_mode = WAL",
		fmt.Sprintf("application_id = %d", applicationID),
	} {
		if _, err := db.ExecContext(ctx, "PRAGMA "+pragma); err != nil {
			return err
		}
	}
	return nil
}

// migrate applies the migrations that the file lacks. A schema is never
// changed under a running server, so without the server's lock an old one is
// only brought up to date while nobody holds that lock.
func migrate(ctx context.Context, db *sql.DB, path string, serving bool) (err error) {
	files, err := fs.Sub(migrations.SQLite, "sqlite")
	if err != nil {
		return err
	}
	var lock *sqlitedb.Lock
	defer func() {
		if lock != nil {
			err = errors.Join(err, lock.Release())
		}
	}()
	code := map[int64]func(context.Context, *sql.Tx) error{5: scopeTemplateIDs}
	return sqlitedb.Migrate(ctx, db, files, code, func(have, want int64) (err error) {
		switch {
		case have > want:
			return fmt.Errorf("the schema has version %d, this program knows %d: a newer program wrote the file", have, want)
		case have > 0 && !serving:
			if lock, err = sqlitedb.TryLock(path + ".lock"); err != nil {
				return fmt.Errorf("the schema is that of an older program, which still runs: %w", err)
			}
		}
		return nil
	})
}

// openWriter opens the file for writing.
func openWriter(path string) (*sql.DB, error) {
	return sqlitedb.Open(path, sqlitedb.WritePragmas(
		"wal_autocheckpoint = 0", // the writer does it, after scrubbing
		"cache_size = -32768",
	))
}

// openDatabase opens a file that is prepared, and starts its writer.
func openDatabase(ctx context.Context, path string, room *ballast.File, log *slog.Logger) (_ *database, err error) {
	d := &database{
		log: log, wal: path + "-wal", ballast: room,
		queue:   make(chan *change, maxBatch),
		closing: make(chan struct{}), unread: make(chan struct{}), stopped: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.closePools())
		}
	}()
	if d.read, err = sqlitedb.Open(path, sqlitedb.ReadPragmas()); err != nil {
		return nil, err
	}
	// Loading takes a connection a core; as many again are left for callers.
	d.readers = make(chan *connection, 2*runtime.GOMAXPROCS(0)+2)
	for range cap(d.readers) {
		d.readers <- &connection{db: d.read}
	}
	if d.write, err = openWriter(path); err != nil {
		return nil, err
	}
	d.write.SetMaxOpenConns(1)
	w := &writer{database: d, connection: connection{db: d.write}}
	if err := w.open(ctx); err != nil {
		return nil, err
	}
	go w.run()
	return d, nil
}

// close lets the writer finish what is queued and releases the file.
func (d *database) close() error {
	d.closeOnce.Do(func() {
		close(d.closing)
		for range cap(d.readers) { // each ends what it is doing first
			(<-d.readers).close()
		}
		close(d.unread)
		<-d.stopped
		d.closeErr = d.closePools()
	})
	return d.closeErr
}

// closePools closes the connections, the writer's last: the last connection
// to leave a WAL database removes the log.
func (d *database) closePools() error {
	var errs []error
	for _, db := range []*sql.DB{d.read, d.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// change runs work in a transaction, together with others that wait at the
// same moment, and returns once it is durable. When work fails, or the context
// has ended before its turn, nothing of it is left; from its turn on the
// context is not looked at, so the answer is never in doubt.
func (d *database) change(ctx context.Context, work func(*transaction) error) error {
	return d.enqueue(&change{ctx: ctx, work: work, done: make(chan struct{})})
}

// urgent is change for what has to go on when the disk is full, such as
// erasing: it may use the room that is kept for it. work may run twice.
func (d *database) urgent(ctx context.Context, work func(*transaction) error) error {
	return d.enqueue(&change{ctx: ctx, work: work, urgent: true, done: make(chan struct{})})
}

func (d *database) enqueue(c *change) error {
	select {
	case <-d.closing:
		return errClosed
	default:
	}
	select {
	case d.queue <- c:
	case <-c.ctx.Done():
		return c.ctx.Err()
	case <-d.closing:
		return errClosed
	}
	select {
	case <-c.done:
		return c.err
	case <-d.stopped:
	}
	select { // it may have been the writer's last
	case <-c.done:
		return c.err
	default:
		return errClosed
	}
}

// view runs work on one snapshot of the database.
func (d *database) view(ctx context.Context, work func(session) error) error {
	select {
	case <-d.closing:
		return errClosed
	default:
	}
	var c *connection
	select {
	case c = <-d.readers:
	case <-ctx.Done():
		return ctx.Err()
	case <-d.closing:
		return errClosed
	}
	defer func() { d.readers <- c }()
	if err := c.open(ctx); err != nil {
		return err
	}
	// The two ends of the snapshot are not left to the caller's context, which
	// could end in the middle of one. A connection that fails at either is
	// opened anew when it is next needed.
	ends := c.session(context.Background())
	if _, err := ends.exec("BEGIN"); err != nil {
		c.close()
		return err
	}
	err := work(c.session(ctx))
	if _, end := ends.exec("ROLLBACK"); end != nil {
		c.close()
	}
	return err
}

// connection keeps the statements prepared on it, by their text. The texts are
// constants of this package, so there are only so many. One goroutine uses it
// at a time.
type connection struct {
	db     *sql.DB
	conn   *sql.Conn
	byText map[string]*sql.Stmt
}

// open connects unless it is connected.
func (c *connection) open(ctx context.Context) (err error) {
	if c.conn == nil {
		c.conn, err = c.db.Conn(ctx)
		c.byText = make(map[string]*sql.Stmt)
	}
	return err
}

// close ends the connection with its statements. It has no error: what
// matters was committed or not before.
func (c *connection) close() {
	if c.conn != nil {
		// database/sql leaves the statements of one connection to us, and SQLite
		// keeps a connection with the file open while one of them is there.
		for _, st := range c.byText {
			_ = st.Close()
		}
		// A connection called bad is closed; any other the pool would keep.
		_ = c.conn.Raw(func(any) error { return driver.ErrBadConn })
		c.conn = nil
	}
}

func (c *connection) session(ctx context.Context) session {
	return session{ctx, func(query string) (st *sql.Stmt, err error) {
		if st = c.byText[query]; st == nil {
			if st, err = c.conn.PrepareContext(ctx, query); err == nil {
				c.byText[query] = st
			}
		}
		return st, err
	}}
}

// session runs prepared statements inside one transaction.
type session struct {
	ctx  context.Context
	stmt func(query string) (*sql.Stmt, error)
}

// exec returns how many rows the statement itself changed.
func (s session) exec(query string, args ...any) (int, error) {
	st, err := s.stmt(query) //nolint:sqlclosecheck // the connection keeps it
	if err != nil {
		return 0, err
	}
	r, err := st.ExecContext(s.ctx, args...)
	if err != nil {
		return 0, err
	}
	n, err := r.RowsAffected()
	return int(n), err
}

// each calls scan for each row.
func (s session) each(scan func(*sql.Rows) error, query string, args ...any) error {
	st, err := s.stmt(query) //nolint:sqlclosecheck // the connection keeps it
	if err != nil {
		return err
	}
	rows, err := st.QueryContext(s.ctx, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// scanFirst scans the first row, if there is any.
func (s session) scanFirst(dest []any, query string, args ...any) (found bool, err error) {
	err = s.each(func(rows *sql.Rows) error {
		if found {
			return nil
		}
		found = true
		return rows.Scan(dest...)
	}, query, args...)
	return found, err
}

// count is the one number that a query gives.
func (s session) count(query string, args ...any) (n int, err error) {
	_, err = s.scanFirst([]any{&n}, query, args...)
	return n, err
}

// transaction is a session that writes. What its end means for the memory is
// collected and done when, and only when, it is committed.
type transaction struct {
	session
	landed []func()
	erased bool
}

// onCommit calls f after the commit and before anybody is answered.
func (t *transaction) onCommit(f func()) { t.landed = append(t.landed, f) }

// writer owns the connection that writes.
type writer struct {
	*database
	connection
	scrubber scrubber
	full     bool // of the disk, as it was logged
}

// run commits what is queued until the database closes. While one commit
// waits for the disk, others queue up, and share the next one.
func (w *writer) run() {
	defer close(w.stopped)
	defer w.connection.close()
	defer func() {
		<-w.unread
		if _, whole, err := w.emptyLog(); !whole {
			w.left = errors.Join(fmt.Errorf("the file is not whole without %s, which holds the latest changes", w.wal), err)
		}
	}()
	var (
		batch = make([]*change, 0, maxBatch)
		retry <-chan time.Time
	)
	for closing := false; !closing; {
		batch = batch[:0]
		select {
		case c := <-w.queue:
			batch = append(batch, c)
		case <-retry:
			retry = w.checkpoint()
			continue
		case <-w.closing:
			closing = true
		}
		for {
			batch = w.drain(batch)
			if len(batch) == 0 {
				break
			}
			if erased := w.carryOut(batch); erased || retry == nil && w.logged() > logLimit {
				retry = w.checkpoint()
			}
			for _, c := range batch {
				close(c.done)
			}
			batch = batch[:0]
		}
	}
}

// drain adds what is queued right now, up to a full batch.
func (w *writer) drain(batch []*change) []*change {
	for len(batch) < maxBatch {
		select {
		case c := <-w.queue:
			batch = append(batch, c)
		default:
			return batch
		}
	}
	return batch
}

// carryOut commits the changes for which there is room; on a full disk that is
// the urgent ones. It reports whether something was erased.
func (w *writer) carryOut(batch []*change) (erased bool) {
	now := slices.Clone(batch)
	err := w.ballast.Keep()
	if (err != nil) != w.full {
		if w.full = err != nil; w.full {
			w.log.Error("the disk is full but for the room that is kept for erasing: nothing else is written until there is more", "error", err)
		} else {
			w.log.Info("the disk has room again")
		}
	}
	if err != nil {
		now = nil
		for _, c := range batch {
			if c.urgent {
				now = append(now, c)
			} else {
				c.err = err
			}
		}
	}
	erased = w.commit(now)
	if full := stillFull(now); len(full) > 0 {
		if _, _, err := w.emptyLog(); err != nil {
			w.log.Warn("the disk is full, and so is the write-ahead log", "error", err)
		}
		erased = w.carryOutUrgent(full) || erased
	}
	return erased
}

// carryOutUrgent commits changes in the room that is kept: all at once, or, if
// that is too much, in parts. They may use half of it, for the pages that they
// change have to be scrubbed and moved before there is room for more.
func (w *writer) carryOutUrgent(batch []*change) (erased bool) {
	ran := false
	err := w.ballast.Without(func(rest func() error) error {
		ran = true
		for _, c := range batch { // not before: what is not tried has failed
			c.err = nil
		}
		erased = w.commit(batch)
		if err := rest(); err != nil {
			return err
		}
		_, _, err := w.moveLog()
		return err
	})
	if err != nil {
		w.log.Warn("the disk is full, and the write-ahead log could not be emptied", "error", err)
	}
	if full := stillFull(batch); ran && len(batch) > 1 && len(full) > 0 {
		for part := range slices.Chunk(full, (len(batch)+1)/2) {
			erased = w.carryOutUrgent(part) || erased
		}
	}
	return erased
}

// stillFull are the urgent changes for which there was no room.
func stillFull(batch []*change) []*change {
	return slices.DeleteFunc(slices.Clone(batch), func(c *change) bool { return !c.urgent || !sqlitedb.IsFull(c.err) })
}

// commit runs the changes in one transaction and leaves its outcome in each.
// It reports whether something was erased.
func (w *writer) commit(batch []*change) (erased bool) {
	if len(batch) == 0 {
		return false
	}
	tx := &transaction{session: w.session(context.Background())}
	err := w.runAll(tx, batch)
	if err == nil {
		w.landing.Lock()
		defer w.landing.Unlock()
		if _, err = tx.exec("COMMIT"); err == nil {
			for _, f := range tx.landed {
				f()
			}
			return tx.erased
		}
	}
	// SQLite may have rolled back already, which is no error to us. A rollback
	// that fails otherwise shows in the next BEGIN.
	if w.conn != nil {
		_, _ = w.conn.ExecContext(context.Background(), "ROLLBACK")
	}
	w.log.Error("write failed", "changes", len(batch), "error", err)
	for _, c := range batch {
		if c.err == nil {
			c.err = err
		}
	}
	return false
}

// runAll runs each change within a savepoint, so that a refused one leaves
// the others alone. Its error is one that none of them survives: after a
// failure of the database itself SQLite may have ended the transaction, and
// whatever ran next would be committed on its own.
func (w *writer) runAll(tx *transaction, batch []*change) error {
	if err := w.open(tx.ctx); err != nil {
		return err
	}
	if _, err := tx.exec("BEGIN IMMEDIATE"); err != nil {
		w.connection.close() // the next batch starts on a new one
		return err
	}
	for _, c := range batch {
		if c.err = c.ctx.Err(); c.err != nil {
			continue
		}
		if _, err := tx.exec("SAVEPOINT change"); err != nil {
			return err
		}
		landed, erased := len(tx.landed), tx.erased
		c.err = c.work(tx)
		var refused *face.Error
		switch {
		case c.err == nil:
		case errors.As(c.err, &refused):
			tx.landed, tx.erased = tx.landed[:landed], erased
			if _, err := tx.exec("ROLLBACK TO change"); err != nil {
				return err
			}
		default:
			return c.err
		}
		if _, err := tx.exec("RELEASE change"); err != nil {
			return err
		}
	}
	return nil
}

// logged is the size of the write-ahead log in bytes.
func (w *writer) logged() int64 {
	info, err := os.Stat(w.wal)
	if err != nil {
		return 0
	}
	return info.Size()
}

// checkpoint empties the write-ahead log: because it is long, or because it
// still holds the pages as they were before an erase. A reader on an older
// snapshot stands in the way; the channel then says when to try again.
func (w *writer) checkpoint() <-chan time.Time {
	emptied, _, err := w.emptyLog()
	if err != nil {
		w.log.Warn("cannot empty the write-ahead log; trying again", "error", err)
	}
	if !emptied {
		return time.After(checkpointRetry)
	}
	return nil
}

// emptyLog is moveLog with the ballast given up where that is the only way:
// a file that grows by what is in its log has no more room then than before.
func (w *writer) emptyLog() (emptied, whole bool, err error) {
	if emptied, whole, err = w.moveLog(); sqlitedb.IsFull(err) {
		err = w.ballast.Without(func(rest func() error) (err error) {
			if err = rest(); err == nil {
				emptied, whole, err = w.moveLog()
			}
			return err
		})
	}
	return emptied, whole, err
}

// moveLog scrubs the pages in the write-ahead log, moves them into the file
// and empties the log. Where somebody still reads the log, the file may be
// whole without it nevertheless.
func (w *writer) moveLog() (emptied, whole bool, err error) {
	ctx := context.Background()
	if err = w.open(ctx); err == nil {
		err = w.scrubber.scrub(ctx, w.conn, w.wal)
	}
	if err != nil {
		return false, false, err
	}
	busy, frames, moved, err := sqlitedb.Checkpoint(ctx, w.conn)
	if err != nil {
		return false, false, err
	}
	w.scrubber.frames = max(0, frames)
	return !busy, frames >= 0 && moved == frames, nil
}

// micros is a time as it is stored.
func micros(t time.Time) int64 { return t.UnixMicro() }

// fromMicros is a time as it is answered.
func fromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }

// joinScopes and splitScopes turn scopes into a column and back.
func joinScopes(scopes []face.Scope) string {
	words := make([]string, len(scopes))
	for i, s := range scopes {
		words[i] = string(s)
	}
	return strings.Join(words, " ")
}

func splitScopes(column string) []face.Scope {
	var scopes []face.Scope
	for w := range strings.FieldsSeq(column) {
		scopes = append(scopes, face.Scope(w))
	}
	return scopes
}
