package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// errLost says that the worker has lost the job: another one has it by now, or
// it waits again.
var errLost = errors.New("the job is another worker's")

// queue is the tables of jobs.
type queue struct {
	db        database
	perTenant int // jobs at a time
	maxQueued int // that wait, of a tenant
	maxBytes  int64
	erased    atomic.Bool // something was, since the database was tidied
}

// sql fills in what the databases say differently.
func (t *queue) sql(query string) string {
	d := t.db.dialect()
	return strings.NewReplacer("{now}", d.now, "{for update}", d.forUpdate, "{skip locked}", d.skipLocked).Replace(query)
}

func (t *queue) exec(ctx context.Context, q querier, query string, args ...any) (int, error) {
	return q.exec(ctx, t.sql(query), args...)
}

// lock lets one transaction at a time count jobs, until its commit.
func (t *queue) lock(ctx context.Context, q querier) error {
	return execUnlessEmpty(ctx, q, t.db.dialect().lock)
}

// notify wakes the workers of other servers once the transaction is committed.
func (t *queue) notify(ctx context.Context, q querier) error {
	return execUnlessEmpty(ctx, q, t.db.dialect().notify)
}

func execUnlessEmpty(ctx context.Context, q querier, statement string) error {
	if statement == "" {
		return nil
	}
	_, err := q.exec(ctx, statement)
	return err
}

const jobColumns = `id, tenant, state, cancel, params, check_identity, iteration, iterations, width, height, shrunk,
	loss_total, loss_content, loss_style, loss_tv, eta, preview, problem, identity, created_at, started_at, finished_at`

func scanJob(row scanner, more ...any) (j Job, err error) {
	var cancel, check int
	var params, problem, identity string
	var eta, created, started, finished int64
	err = row.Scan(append([]any{
		&j.ID, &j.Tenant, &j.State, &cancel, &params, &check, &j.Iteration, &j.Iterations, &j.Width, &j.Height, &j.Shrunk,
		&j.Loss.Total, &j.Loss.Content, &j.Loss.Style, &j.Loss.TV, &eta, &j.Preview, &problem, &identity, &created, &started, &finished,
	}, more...)...)
	if err != nil {
		return j, err
	}
	j.Canceling, j.CheckIdentity, j.ETA = cancel != 0 && !j.State.Final(), check != 0, time.Duration(eta)*time.Microsecond
	j.CreatedAt, j.StartedAt, j.FinishedAt = timeFromMicros(created), timeFromMicros(started), timeFromMicros(finished)
	err = json.Unmarshal([]byte(params), &j.Params)
	if err == nil && problem != "" {
		err = json.Unmarshal([]byte(problem), &j.Problem)
	}
	if err == nil && identity != "" {
		err = json.Unmarshal([]byte(identity), &j.Identity)
	}
	return j, err
}

func timeFromMicros(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

// job reads one, locked until the commit where that is asked for.
func (t *queue) job(ctx context.Context, q querier, tenant, id string, forUpdate bool) (j Job, err error) {
	query := "SELECT " + jobColumns + " FROM style_job WHERE tenant = ? AND id = ?"
	if forUpdate {
		query += " {for update}"
	}
	found := false
	err = q.each(ctx, func(row scanner) (err error) {
		found = true
		j, err = scanJob(row)
		return err
	}, t.sql(query), tenant, id)
	if err == nil && !found {
		err = face.Errorf(face.NotFound, "", "There is no such job.")
	}
	return j, err
}

// add adds a job with its pictures, unless it is there.
func (t *queue) add(ctx context.Context, r Request) (j Job, err error) {
	params, err := json.Marshal(r.Params)
	if err != nil {
		return j, err
	}
	check := 0
	if r.CheckIdentity {
		check = 1
	}
	err = t.db.transact(ctx, func(q querier) error {
		n, err := t.exec(ctx, q, `INSERT INTO style_job (id, tenant, key_id, state, params, check_identity, created_at, iterations)
			VALUES (?, ?, ?, 'queued', ?, ?, {now}, ?) ON CONFLICT (id) DO NOTHING`,
			r.ID, r.Tenant, r.KeyID, string(params), check, r.Params.Iterations)
		if err != nil {
			return err
		}
		if n == 0 { // NotFound where the id is another tenant's, which only chance could do
			j, err = t.job(ctx, q, r.Tenant, r.ID, false)
			return err
		}
		for kind, list := range map[string][][]byte{"content": {r.Content}, "style": r.Styles, "mask": r.Masks} {
			for i, data := range list {
				if err := t.putBlob(ctx, q, r.Tenant, r.ID, kind, i, data); err != nil {
					return err
				}
			}
		}
		// The turn is taken after the megabytes are written.
		if err := t.lock(ctx, q); err != nil {
			return err
		}
		var queued int
		if _, err := scanFirst(ctx, q, []any{&queued}, "SELECT count(*) FROM style_job WHERE tenant = ? AND state = 'queued'", r.Tenant); err != nil {
			return err
		}
		if queued > t.maxQueued {
			return face.Errorf(face.QueueFull, "", "%d jobs wait already.", queued-1)
		}
		// Pictures that nobody fetches must not take the room of what others store.
		var bytes int64
		if _, err := scanFirst(ctx, q, []any{&bytes}, `SELECT coalesce(sum(length(b.data)), 0) FROM style_job j
			JOIN style_blob b ON b.job = j.id WHERE j.tenant = ?`, r.Tenant); err != nil {
			return err
		}
		if bytes > t.maxBytes {
			return face.Errorf(face.QueueFull, "", "The pictures of jobs that wait or are kept would have %d MiB, and %d are the most: those deleted make room.", bytes>>20, t.maxBytes>>20)
		}
		if j, err = t.job(ctx, q, r.Tenant, r.ID, false); err != nil {
			return err
		}
		return t.notify(ctx, q)
	})
	return j, err
}

func (t *queue) putBlob(ctx context.Context, q querier, tenant, id, kind string, n int, data []byte) error {
	_, err := t.exec(ctx, q, `INSERT INTO style_blob (job, tenant, kind, n, data) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (job, kind, n) DO UPDATE SET data = excluded.data`, id, tenant, kind, n, data)
	return err
}

// runnable is the condition of jobs that wait for nothing but a worker.
const runnable = `state = 'queued' AND run_after <= {now}`

// claimed is a job in the hands of a worker.
type claimed struct {
	Job
	attempt    int
	saved      int // iteration of the checkpoint
	faults     int
	spent      time.Duration
	inputs     inputs
	checkpoint []byte
}

// claimNext takes the job whose turn it is: the oldest of the tenants that have the
// fewest at work. It is nil when there is none.
func (t *queue) claimNext(ctx context.Context, owner string) (c *claimed, err error) {
	var n int // most looks find nothing, and need no lock for it
	found, err := scanFirst(ctx, t.db, []any{&n}, t.sql("SELECT 1 FROM style_job WHERE "+runnable+" LIMIT 1"))
	if err != nil || !found {
		return nil, err
	}
	err = t.db.transact(ctx, func(q querier) error {
		c = nil
		if err := t.lock(ctx, q); err != nil {
			return err
		}
		const running = `(SELECT count(*) FROM style_job r WHERE r.tenant = j.tenant AND r.state = 'running')`
		var tenant, id string
		found, err := scanFirst(ctx, q, []any{&tenant, &id}, t.sql(`SELECT tenant, id FROM style_job j
			WHERE `+runnable+` AND `+running+` < ? ORDER BY `+running+`, created_at, id LIMIT 1`), t.perTenant)
		if err != nil || !found {
			return err
		}
		got := &claimed{}
		err = q.each(ctx, func(row scanner) (err error) {
			var spent int64
			got.Job, err = scanJob(row, &got.attempt, &got.saved, &got.faults, &spent)
			got.spent = time.Duration(spent) * time.Microsecond
			return err
		}, t.sql(`UPDATE style_job SET state = 'running', attempt = attempt + 1, owner = ?, beat_at = {now},
				started_at = CASE WHEN started_at = 0 THEN {now} ELSE started_at END
			WHERE tenant = ? AND id = ? AND state = 'queued' RETURNING `+jobColumns+`, attempt, saved, faults, spent`), owner, tenant, id)
		if err == nil && got.ID != "" { // it may have been canceled this moment
			c = got
		}
		return err
	})
	return c, err
}

// loadInputs reads what a claimed job was given.
func (t *queue) loadInputs(ctx context.Context, c *claimed) error {
	c.inputs, c.checkpoint = inputs{}, nil
	return t.db.each(ctx, func(row scanner) error {
		var kind string
		var data []byte
		if err := row.Scan(&kind, &data); err != nil {
			return err
		}
		switch kind {
		case "content":
			c.inputs.content = data
		case "style":
			c.inputs.styles = append(c.inputs.styles, data)
		case "mask":
			c.inputs.masks = append(c.inputs.masks, data)
		case "checkpoint":
			c.checkpoint = data
		}
		return nil
	}, `SELECT kind, data FROM style_blob WHERE tenant = ? AND job = ?
		AND kind IN ('content', 'style', 'mask', 'checkpoint') ORDER BY kind, n`, c.Tenant, c.ID)
}

// ownedAttempt is the condition that a job is still the worker's.
const ownedAttempt = `tenant = ? AND id = ? AND attempt = ? AND state = 'running'`

// setProgress are the columns that tell how far a job is.
const setProgress = `beat_at = {now}, iteration = ?, iterations = ?, width = ?, height = ?, shrunk = ?,
	loss_total = ?, loss_content = ?, loss_style = ?, loss_tv = ?, eta = ?, spent = ?`

func (c *claimed) progressArgs(p progress) []any {
	return []any{
		p.iteration, p.iterations, p.width, p.height, p.shrunk,
		finiteOrZero(p.loss.Total), finiteOrZero(p.loss.Content), finiteOrZero(p.loss.Style), finiteOrZero(p.loss.TV), p.eta.Microseconds(), p.spent.Microseconds(),
	}
}

// finiteOrZero is a number that a database and JSON take.
func finiteOrZero(x float64) float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	return x
}

// writeBeat says that the worker lives and how far it is. It returns whether the
// job was canceled, and whether somebody wants previews. errLost.
func (t *queue) writeBeat(ctx context.Context, c *claimed, p progress) (canceled, watched bool, err error) {
	var cancel, watch int
	found, err := scanFirst(ctx, t.db, []any{&cancel, &watch}, t.sql(`UPDATE style_job SET `+setProgress+`
		WHERE `+ownedAttempt+` RETURNING cancel, CASE WHEN watched_until > {now} THEN 1 ELSE 0 END`),
		append(c.progressArgs(p), c.Tenant, c.ID, c.attempt)...)
	if err == nil && !found {
		err = errLost
	}
	return cancel != 0, watch != 0, err
}

// saveCheckpoint keeps a checkpoint of the iteration that the progress tells. errLost.
func (t *queue) saveCheckpoint(ctx context.Context, c *claimed, p progress, checkpoint []byte) error {
	return t.db.transact(ctx, func(q querier) error {
		n, err := t.exec(ctx, q, `UPDATE style_job SET `+setProgress+`, saved = ?, losses = 0 WHERE `+ownedAttempt,
			append(c.progressArgs(p), p.iteration, c.Tenant, c.ID, c.attempt)...)
		switch {
		case err != nil:
			return err
		case n == 0:
			return errLost
		}
		return t.putBlob(ctx, q, c.Tenant, c.ID, "checkpoint", 0, checkpoint)
	})
}

// savePreview keeps a preview. errLost.
func (t *queue) savePreview(ctx context.Context, c *claimed, png []byte) error {
	return t.db.transact(ctx, func(q querier) error {
		n, err := t.exec(ctx, q, `UPDATE style_job SET preview = preview + 1 WHERE `+ownedAttempt, c.Tenant, c.ID, c.attempt)
		switch {
		case err != nil:
			return err
		case n == 0:
			return errLost
		}
		return t.putBlob(ctx, q, c.Tenant, c.ID, "preview", 0, png)
	})
}

// outcome is how an attempt ended.
type outcome struct {
	state    State // Queued: it goes on later, here or elsewhere
	progress progress
	result   []byte // of Succeeded
	identity *Identity
	problem  *Problem // of Failed

	after  time.Duration // of Queued: not before that
	faulty bool          // of Queued: a fault was the reason
	afresh bool          // of Queued: without the checkpoint
}

// settle ends an attempt: all of it, or nothing. A job whose end was asked for
// is canceled, whatever came of it. errLost.
func (t *queue) settle(ctx context.Context, c *claimed, o outcome) (ended State, err error) {
	err = t.db.transact(ctx, func(q querier) error {
		var cancel int
		found, err := scanFirst(ctx, q, []any{&cancel}, t.sql(`SELECT cancel FROM style_job WHERE `+ownedAttempt+` {for update}`), c.Tenant, c.ID, c.attempt)
		switch {
		case err != nil:
			return err
		case !found:
			return errLost
		}
		ended = o.state
		if cancel != 0 {
			ended = Canceled
		}
		if ended == Queued {
			if o.afresh {
				if _, err := t.exec(ctx, q, "DELETE FROM style_blob WHERE tenant = ? AND job = ? AND kind = 'checkpoint'", c.Tenant, c.ID); err != nil {
					return err
				}
			}
			_, err = t.exec(ctx, q, `UPDATE style_job SET state = 'queued', owner = '', eta = 0, run_after = {now} + ?, faults = faults + ?, spent = ?,
				saved = CASE WHEN ? = 1 THEN 0 ELSE saved END WHERE tenant = ? AND id = ?`,
				o.after.Microseconds(), boolToInt(o.faulty), o.progress.spent.Microseconds(), boolToInt(o.afresh), c.Tenant, c.ID)
		} else {
			if ended == Succeeded {
				if err := t.putBlob(ctx, q, c.Tenant, c.ID, "result", 0, o.result); err != nil {
					return err
				}
			}
			if ended != Failed {
				o.problem = nil
			}
			if ended != Succeeded {
				o.identity = nil
			}
			args := append(c.progressArgs(o.progress), ended, toJSON(o.problem), toJSON(o.identity), c.Tenant, c.ID)
			_, err = t.exec(ctx, q, `UPDATE style_job SET `+setProgress+`, state = ?, owner = '', finished_at = {now}, problem = ?, identity = ?
				WHERE tenant = ? AND id = ?`, args...)
			if err == nil {
				err = t.eraseBlobs(ctx, q, c.Tenant, c.ID)
			}
		}
		if err != nil {
			return err
		}
		return t.notify(ctx, q)
	})
	return ended, err
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// toJSON is the JSON of what is there.
func toJSON[T any](v *T) string {
	if v == nil {
		return ""
	}
	b, err := json.Marshal(v)
	if err != nil { // of a number that is not finite
		return ""
	}
	return string(b)
}

// eraseBlobs erases what a job that ended needs no more: all but its result.
func (t *queue) eraseBlobs(ctx context.Context, q querier, tenant, id string) error {
	t.erased.Store(true)
	_, err := t.exec(ctx, q, "DELETE FROM style_blob WHERE tenant = ? AND job = ? AND kind <> 'result'", tenant, id)
	return err
}

// cancelOrErase is [Queue.Delete]. It only marks a running job: its worker ends it.
func (t *queue) cancelOrErase(ctx context.Context, tenant, id string) (j Job, err error) {
	err = t.db.urgent(ctx, func(q querier) error {
		if j, err = t.job(ctx, q, tenant, id, true); err != nil {
			return err
		}
		switch j.State {
		case Queued:
			if _, err := t.exec(ctx, q, "UPDATE style_job SET state = 'canceled', finished_at = {now} WHERE tenant = ? AND id = ?", tenant, id); err != nil {
				return err
			}
			if err := t.eraseBlobs(ctx, q, tenant, id); err != nil {
				return err
			}
			j, err = t.job(ctx, q, tenant, id, false)
		case Running:
			j.Canceling = true
			_, err = t.exec(ctx, q, "UPDATE style_job SET cancel = 1 WHERE tenant = ? AND id = ?", tenant, id)
		case Succeeded, Failed:
			t.erased.Store(true)
			_, err = t.exec(ctx, q, "DELETE FROM style_job WHERE tenant = ? AND id = ?", tenant, id)
		case Canceled:
		}
		return err
	})
	return j, err
}

// list is a page of a tenant's jobs, newest first.
func (t *queue) list(ctx context.Context, tenant string, p store.Page) (items []Job, next string, err error) {
	after, err := store.ReadPage("List", p, "style-jobs", tenant)
	if err != nil {
		return nil, "", err
	}
	created, id := int64(math.MaxInt64), ""
	if after != "" {
		text, rest, _ := strings.Cut(after, ".")
		if created, err = strconv.ParseInt(text, 10, 64); err != nil {
			return nil, "", face.Errorf(face.Invalid, "List", "the cursor is not one of this list")
		}
		id = rest
	}
	items = []Job{}
	err = t.db.each(ctx, func(row scanner) error {
		j, err := scanJob(row)
		items = append(items, j)
		return err
	}, "SELECT "+jobColumns+" FROM style_job WHERE tenant = ? AND (created_at, id) < (?, ?) ORDER BY created_at DESC, id DESC LIMIT ?",
		tenant, created, id, p.Limit+1)
	if err != nil {
		return nil, "", err
	}
	items, next = store.CutPage(items, p, func(j Job) string { return fmt.Sprintf("%d.%s", j.CreatedAt.UnixMicro(), j.ID) }, "style-jobs", tenant)
	return items, next, nil
}

// blob reads a picture, nil when there is none.
func (t *queue) blob(ctx context.Context, tenant, id, kind string) (data []byte, err error) {
	_, err = scanFirst(ctx, t.db, []any{&data}, "SELECT data FROM style_blob WHERE tenant = ? AND job = ? AND kind = ? AND n = 0", tenant, id, kind)
	return data, err
}

// requestPreviews has the worker make previews for the given time.
func (t *queue) requestPreviews(ctx context.Context, tenant, id string, until time.Duration) error {
	_, err := t.exec(ctx, t.db, "UPDATE style_job SET watched_until = {now} + ? WHERE tenant = ? AND id = ? AND state IN ('queued', 'running')",
		until.Microseconds(), tenant, id)
	return err
}

// requeueSilent puts jobs back whose workers wrote no heartbeat for the given
// time. The jobs of this server are left alone, however slow the machine is.
func (t *queue) requeueSilent(ctx context.Context, here func(id string) bool, silent time.Duration) (lost []string, err error) {
	err = t.db.transact(ctx, func(q querier) error {
		lost = nil
		type orphan struct {
			tenant, id     string
			cancel, losses int
		}
		var orphans []orphan
		err := q.each(ctx, func(row scanner) error {
			var o orphan
			err := row.Scan(&o.tenant, &o.id, &o.cancel, &o.losses)
			orphans = append(orphans, o)
			return err
		}, t.sql("SELECT tenant, id, cancel, losses FROM style_job WHERE state = 'running' AND beat_at <= {now} - ? {skip locked}"), silent.Microseconds())
		if err != nil {
			return err
		}
		for _, o := range orphans {
			if here(o.id) {
				continue
			}
			state, problem := Queued, ""
			switch {
			case o.cancel != 0:
				state = Canceled
			case o.losses+1 > maxLosses:
				state = Failed
				problem = toJSON(&Problem{
					Code: face.Internal.Code(), Title: face.Internal.Title(),
					Detail: fmt.Sprintf("%d workers died of it one after another.", o.losses+1),
				})
			}
			_, err := t.exec(ctx, q, `UPDATE style_job SET state = ?, owner = '', eta = 0, losses = losses + 1, problem = ?,
				finished_at = CASE WHEN ? = 1 THEN {now} ELSE 0 END WHERE tenant = ? AND id = ?`, state, problem, boolToInt(state.Final()), o.tenant, o.id)
			if err == nil && state.Final() {
				err = t.eraseBlobs(ctx, q, o.tenant, o.id)
			}
			if err != nil {
				return err
			}
			lost = append(lost, o.id)
		}
		if len(lost) == 0 {
			return nil
		}
		return t.notify(ctx, q)
	})
	return lost, err
}

// purge erases the jobs that ended longer ago than ttl.
func (t *queue) purge(ctx context.Context, ttl time.Duration) (n int, err error) {
	err = t.db.urgent(ctx, func(q querier) error {
		n, err = t.exec(ctx, q, "DELETE FROM style_job WHERE finished_at > 0 AND finished_at <= {now} - ?", ttl.Microseconds())
		return err
	})
	if n > 0 {
		t.erased.Store(true)
	}
	return n, err
}

// tidy is due after something was erased, and once the commit is through: what
// is marked within one is tidied again.
func (t *queue) tidy(ctx context.Context) error {
	if !t.erased.Swap(false) {
		return nil
	}
	err := t.db.tidy(ctx)
	if err != nil {
		t.erased.Store(true)
	}
	return err
}

// count counts the jobs of all tenants by state.
func (t *queue) count(ctx context.Context) (map[State]int, error) {
	counts := map[State]int{}
	err := t.db.each(ctx, func(row scanner) error {
		var state State
		var n int
		err := row.Scan(&state, &n)
		counts[state] = n
		return err
	}, "SELECT state, count(*) FROM style_job GROUP BY state")
	return counts, err
}
