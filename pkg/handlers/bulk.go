package handlers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

const (
	// maxImports is how many imports a server carries out at a time.
	maxImports = 4
	// importBatch is how many lines share a commit at most. While one batch
	// waits for the disk, the next one gathers.
	importBatch = 256
	// importTemplates is how many templates end a batch.
	importTemplates = 2000
	// maxNotTaken is how many lines a summary names that were not taken.
	maxNotTaken = 100
	// exportChunk is how many bytes of an export are written at a time.
	exportChunk = 64 << 10
)

// importing lets each key have one import, and the server a few, of which a
// tenant has half at most.
type importing struct {
	mu   sync.Mutex
	keys map[string]string // those that import, with their tenants
}

func (i *importing) begin(key, tenant string) (end func(), err error) {
	const op = "handlers.importing"
	i.mu.Lock()
	defer i.mu.Unlock()
	_, busy := i.keys[key]
	own := 0
	for _, t := range i.keys {
		if t == tenant {
			own++
		}
	}
	switch {
	case busy:
		return nil, face.Errorf(face.Overloaded, op, "the key has an import under way")
	case len(i.keys) >= maxImports:
		return nil, face.Errorf(face.Overloaded, op, "%d imports are under way", maxImports)
	case own >= maxImports/2:
		return nil, face.Errorf(face.Overloaded, op, "the tenant has %d imports under way", own)
	}
	i.keys[key] = tenant
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.keys, key)
	}, nil
}

// ImportSubjects takes in subjects, a line each.
func (s *server) ImportSubjects(ctx context.Context, r api.ImportSubjectsRequestObject) (api.ImportSubjectsResponseObject, error) {
	return &subjectImport{
		server: s, ctx: ctx, gallery: r.Gallery, from: valueOr(r.Params.FromLine, 1), body: r.Body,
		summary: valueOr(r.Params.Answer, api.ImportSubjectsParamsAnswerLines) == api.ImportSubjectsParamsAnswerSummary,
	}, nil
}

// subjectImport answers an import while its body arrives.
type subjectImport struct {
	*server
	ctx      context.Context // the request's, which the generated interface does not hand on
	gallery  string
	searched []string // models that the gallery is searched with, or soon will be
	from     int64    // line
	body     io.Reader
	summary  bool // is all that is answered, after the end of the body
	begun    bool // lines have been taken or refused
	out      *stream
	sum      api.BulkSummary
}

// VisitImportSubjectsResponse carries the import out. Its error is one that
// came before anything was answered.
func (i *subjectImport) VisitImportSubjectsResponse(w http.ResponseWriter) error {
	conn := http.NewResponseController(w)
	i.out = &stream{w: w, conn: conn, idle: i.BulkIdleTimeout, kind: api.NDJSON}
	i.out.extend()
	source := &idleReader{r: i.body, conn: conn, idle: i.BulkIdleTimeout}
	end, err := i.begin()
	if err != nil {
		if i.summary {
			_, _ = io.Copy(io.Discard, source) // who cannot send it all reads no answer
			source.ended()
			i.out.extend()
		}
		return err
	}
	defer end()
	_ = conn.EnableFullDuplex() // what is no HTTP/1 connection needs none
	reader := &lineReader{
		source: source, from: i.from, parse: i.record,
		parsed: make(chan parsedLine, importBatch), room: semaphore.NewWeighted(2 * api.MaxBulkLine),
	}
	ctx, cancel := context.WithCancel(i.ctx)
	defer cancel()
	go reader.run(ctx)
	switch err = i.takeAll(reader); {
	case err == nil:
	case i.summary, i.out.unread != nil: // nothing that is said meanwhile would be read
		reader.discard()
	default:
		cancel()
		reader.stop()
	}
	i.sum.Lines = reader.number
	if err == nil {
		err = reader.err
	}
	if err != nil && !i.begun {
		i.out.extend()
		return err
	}
	if i.sum.Done = err == nil; err != nil {
		if explain(face.KindOf(err)).status >= 500 {
			i.Logger.WarnContext(i.ctx, "import failed", "request_id", callOf(i.ctx).id, "error", err)
		}
		i.sum.Error = i.blame(err)
		callOf(i.ctx).fails(err)
	}
	if i.out.unread != nil {
		i.sum.Error.Detail = new(fmt.Sprintf("Nobody read the answer for %v. Read it while you send, or ask for answer=summary.", i.BulkIdleTimeout))
		_ = i.out.settle() // a reader who is gone shows again below
	}
	if i.summary {
		i.out.kind = "application/json"
	}
	i.out.add(i.sum)
	if gone := i.out.flush(); gone != nil {
		callOf(i.ctx).fails(gone)
	}
	return nil
}

// begin finds out about the gallery and counts the import, until end is called.
func (i *subjectImport) begin() (end func(), err error) {
	g, err := i.Store.Gallery(i.ctx, tenant(i.ctx), i.gallery)
	if err != nil {
		return nil, err
	}
	i.searched = []string{i.encoders.IDOf(g), g.NextModelID}
	return i.importing.begin(callOf(i.ctx).key.ID, tenant(i.ctx))
}

// takeAll imports what the reader gives, as much at a time as is there.
func (i *subjectImport) takeAll(reader *lineReader) error {
	var next []parsedLine // a subject twice in one batch would be refused
	for {
		batch := next
		next = nil
		if len(batch) == 0 {
			first, ok := <-reader.parsed
			if !ok {
				return nil
			}
			batch = append(batch, first)
		}
		ids, templates := map[string]bool{batch[0].record.Subject.ID: true}, len(batch[0].record.Templates)
	gather:
		for len(batch) < importBatch && templates < importTemplates {
			select {
			case l, ok := <-reader.parsed:
				if !ok {
					break gather
				}
				if id := l.record.Subject.ID; l.refusal == nil && ids[id] {
					next = append(next, l)
					break gather
				}
				ids[l.record.Subject.ID] = true
				batch = append(batch, l)
				templates += len(l.record.Templates)
			default:
				break gather
			}
		}
		err := i.take(batch)
		for _, l := range batch {
			reader.room.Release(l.size)
		}
		if err != nil {
			return err
		}
	}
}

// take imports a batch and answers each of its lines.
func (i *subjectImport) take(batch []parsedLine) error {
	var records []store.Record
	for _, l := range batch {
		if l.refusal == nil {
			records = append(records, l.record)
		}
	}
	var outcomes []store.Outcome
	var err error
	if len(records) > 0 {
		ctx, cancel := context.WithTimeout(i.ctx, i.RequestTimeout)
		outcomes, err = i.Store.Import(ctx, tenant(ctx), i.gallery, records)
		err = deadlineError(ctx, err)
		cancel()
		if err != nil && !i.begun {
			return err // the problem says it all
		}
	}
	i.begun = true
	for _, l := range batch {
		result := api.BulkResult{Line: l.number, SubjectID: optionalText(l.record.Subject.ID)}
		out := store.Outcome{Err: err}
		switch {
		case l.refusal != nil:
			out.Err = l.refusal
		case err == nil:
			out, outcomes = outcomes[0], outcomes[1:]
		}
		result.Templates = out.Templates
		i.sum.Templates += int64(out.Templates)
		if out.Err == nil {
			for _, t := range l.record.Templates {
				if !slices.Contains(i.searched, t.ModelID) {
					i.sum.OtherModels++
				}
			}
		}
		switch {
		case out.Err != nil && (l.refusal == nil && err != nil || explain(face.KindOf(out.Err)).status >= 500):
			result.Status, result.Error = api.BulkResultStatusFailed, i.blame(out.Err)
			i.sum.Failed++
		case out.Err != nil:
			result.Status, result.Error = api.BulkResultStatusRefused, i.blame(out.Err)
			i.sum.Refused++
		case out.Created:
			result.Status = api.BulkResultStatusCreated
			i.sum.Created++
		case out.Templates > 0:
			result.Status = api.BulkResultStatusUpdated
			i.sum.Updated++
		default:
			result.Status = api.BulkResultStatusUnchanged
			i.sum.Unchanged++
		}
		switch {
		case !i.summary:
			i.out.add(result)
		case result.Error != nil && len(i.sum.NotTaken) < maxNotTaken:
			i.sum.NotTaken = append(i.sum.NotTaken, result)
		}
	}
	if err != nil || i.summary {
		return err
	}
	return i.out.offer()
}

// blame is an error as a line of the answer has it.
func (i *subjectImport) blame(err error) *api.BulkError {
	kind := face.KindOf(err)
	b := &api.BulkError{Code: api.ProblemCode(kind.Code())}
	about := explain(kind)
	e, ok := errors.AsType[*face.Error](err)
	switch {
	case about.status >= 500 && kind != face.Unavailable:
		b.Detail = &about.meaning
	case ok && len(e.Fields) > 0:
		b.Detail, b.Pointer = &e.Fields[0].Detail, optionalText(e.Fields[0].Pointer)
	case ok:
		b.Detail = optionalText(e.Detail)
	}
	return b
}

// record checks a line as far as that needs no store.
func (i *subjectImport) record(line []byte) (store.Record, error) {
	b, err := api.ParseBulkSubject(line)
	switch valid := face.ValidID(b.SubjectID); {
	case err != nil && valid: // what came before the fault says whose line it is
		return store.Record{Subject: face.Subject{ID: b.SubjectID}}, err
	case err != nil:
		return store.Record{}, err
	case !valid:
		return store.Record{}, api.InvalidField("subject_id", face.IDRule)
	}
	r := store.Record{Subject: face.Subject{
		ID: b.SubjectID, Name: valueOr(b.Name, ""), ExternalID: valueOr(b.ExternalID, ""), Metadata: b.Metadata,
		CreatedAt: valueOr(b.CreatedAt, time.Time{}), UpdatedAt: valueOr(b.UpdatedAt, time.Time{}),
	}}
	if err := checkMetadata(b.Metadata); err != nil {
		return r, err
	}
	for n, t := range b.Templates {
		if enc, ok := i.encoders.Find(t.ModelID); ok && enc.Dimension != len(t.Embedding) {
			e := face.Errorf(face.ModelMismatch, "handlers.import", "An embedding of %s has %d numbers, not %d.", t.ModelID, enc.Dimension, len(t.Embedding))
			e.Fields = []face.FieldError{{Pointer: fmt.Sprintf("/templates/%d/embedding", n), Detail: e.Detail}}
			return r, e
		}
		r.Templates = append(r.Templates, face.Template{
			ID: t.TemplateID, SubjectID: b.SubjectID, SampleID: valueOr(t.SampleID, ""), ModelID: t.ModelID,
			Embedding: face.Embedding(t.Embedding), Quality: valueOr(t.Quality, 0), CreatedAt: valueOr(t.CreatedAt, time.Time{}), Crop: t.Crop,
		})
	}
	return r, nil
}

// parsedLine is a line of an import on its way to the store.
type parsedLine struct {
	number  int64
	size    int64 // bytes, which room is held for
	record  store.Record
	refusal error
}

// lineReader reads and parses lines beside what stores them.
type lineReader struct {
	source *idleReader
	from   int64
	parse  func([]byte) (store.Record, error)
	parsed chan parsedLine
	room   *semaphore.Weighted // for the bytes of lines that are not stored yet
	past   atomic.Bool         // what is left is read past

	// For others once parsed is closed:
	number int64 // lines read
	err    error // why not all were; nil at the end of the body
}

func (l *lineReader) run(ctx context.Context) {
	defer close(l.parsed)
	defer func() { // nobody else does beside the handler
		if p := recover(); p != nil {
			l.err = face.Wrap(face.Internal, "handlers.import", fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	r := bufio.NewReaderSize(l.source, 64<<10)
	for {
		past := l.past.Load()
		line, tooLong, err := nextLine(r, past || l.number+1 < l.from)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				l.err = api.BodyError(err)
			}
			l.source.ended()
			return
		}
		if past {
			continue
		}
		l.number++
		p := parsedLine{number: l.number, size: int64(len(line))}
		switch {
		case tooLong:
			p.refusal = face.Errorf(face.TooLarge, "handlers.import", "The line is longer than %d bytes.", api.MaxBulkLine)
		case len(bytes.TrimSpace(line)) == 0: // passed over lines, too
			continue
		}
		if l.err = face.Wrap(face.Internal, "handlers.import", l.room.Acquire(ctx, p.size)); l.err != nil {
			return
		}
		if p.refusal == nil {
			p.record, p.refusal = l.parse(line)
		}
		select {
		case l.parsed <- p:
		case <-ctx.Done():
			l.err = face.Wrap(face.Canceled, "handlers.import", ctx.Err())
			return
		}
	}
}

// discard reads past what is left of the body. It returns when run has.
func (l *lineReader) discard() {
	l.past.Store(true)
	for p := range l.parsed {
		l.room.Release(p.size)
	}
}

// stop returns when run has.
func (l *lineReader) stop() {
	l.source.stop()
	for range l.parsed { // what is left is not stored
		continue
	}
}

// nextLine reads a line without its end. One that is too long, or to be
// skipped, is read past and never held as a whole. A line that the body's end
// cuts off is one; what a broken connection cuts off is not.
func nextLine(r *bufio.Reader, skip bool) (line []byte, tooLong bool, err error) {
	for some := false; ; some = true {
		part, err := r.ReadSlice('\n')
		if end := err == nil; end {
			part = part[:len(part)-1]
		}
		if !skip && !tooLong {
			if tooLong = len(line)+len(part) > api.MaxBulkLine; tooLong {
				line = nil
			} else {
				line = append(line, part...)
			}
		}
		switch {
		case err == nil, errors.Is(err, io.EOF) && (some || len(part) > 0):
			return line, tooLong, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, false, err
		}
	}
}

// idleReader is a body whose sender may take any time in all, but not do
// nothing for long.
type idleReader struct {
	r    io.Reader
	conn *http.ResponseController
	idle time.Duration

	mu      sync.Mutex
	stopped bool
}

func (i *idleReader) Read(p []byte) (int, error) {
	if err := i.extend(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}

func (i *idleReader) extend() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stopped {
		return os.ErrDeadlineExceeded
	}
	_ = i.conn.SetReadDeadline(time.Now().Add(i.idle)) // a writer without a connection has none
	return nil
}

// ended takes the deadline away once all is read: net/http goes on reading,
// to notice when the client leaves, and would take a timeout for that.
func (i *idleReader) ended() {
	_ = i.conn.SetReadDeadline(time.Time{}) // a writer without a connection has none
}

// stop ends a read under way, and every later one; with them, the connection
// is of no more use.
func (i *idleReader) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stopped = true
	_ = i.conn.SetReadDeadline(time.Now()) // a writer without a connection has none
}

// stream is an answer that is sent line by line. Nothing is sent before the
// first flush.
type stream struct {
	w      http.ResponseWriter
	conn   *http.ResponseController
	idle   time.Duration
	kind   string // Content-Type
	buf    []byte
	begun  bool
	unread chan error // what becomes of an offer that nobody has read yet
}

// add appends a line of plain structs, which always encode.
func (s *stream) add(v any) {
	b, _ := json.Marshal(v)
	s.buf = append(append(s.buf, b...), '\n')
}

// extend gives the reader its time again.
func (s *stream) extend() {
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.idle)) // a writer without a connection has none
}

// offer sends what was added. Where nobody reads it in time, the error is
// Deadline, and the offer stands until settle is called: a write that ran into
// its own deadline would have ended the connection.
func (s *stream) offer() error {
	_ = s.conn.SetWriteDeadline(time.Time{}) // a writer without a connection has none
	sent := make(chan error, 1)
	go func() { sent <- s.write() }()
	timer := time.NewTimer(s.idle)
	defer timer.Stop()
	select {
	case err := <-sent:
		return err
	case <-timer.C:
		s.unread = sent
		return face.Errorf(face.Deadline, "handlers.stream", "nobody read the answer for %v", s.idle)
	}
}

// settle gives the reader of an offer that stands their time again.
func (s *stream) settle() error {
	s.extend()
	return <-s.unread
}

// flush sends what was added. Its error is that of a reader who is gone.
func (s *stream) flush() error {
	s.extend()
	return s.write()
}

func (s *stream) write() error {
	if !s.begun {
		s.w.Header().Set("Content-Type", s.kind)
		s.begun = true
	}
	_, err := s.w.Write(s.buf)
	s.buf = s.buf[:0]
	if err == nil {
		err = s.conn.Flush()
	}
	if errors.Is(err, http.ErrNotSupported) {
		err = nil
	}
	return face.Wrap(face.Canceled, "handlers.stream", err)
}

// ExportSubjects gives out the subjects, a line each.
func (s *server) ExportSubjects(ctx context.Context, r api.ExportSubjectsRequestObject) (api.ExportSubjectsResponseObject, error) {
	after := valueOr(r.Params.After, "")
	if after != "" && !face.ValidID(after) {
		return nil, parameter("after", face.IDRule)
	}
	if _, err := s.Store.Gallery(ctx, tenant(ctx), r.Gallery); err != nil {
		return nil, err
	}
	if callOf(ctx).head {
		return nothing(api.NDJSON), nil
	}
	// At its beginning: what was cut off has left the building as well.
	recording, cancel := context.WithTimeout(ctx, s.RequestTimeout)
	defer cancel()
	if err := s.Identity.Record(recording, callerOf(ctx), store.Decision{Action: store.AuditExport, Gallery: r.Gallery}); err != nil {
		return nil, deadlineError(recording, err)
	}
	return &subjectExport{s, ctx, r.Gallery, after, valueOr(r.Params.Crops, false)}, nil
}

// nothing is an answer to HEAD: the media type of a stream that is not begun.
type nothing string

func (n nothing) answer(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", string(n))
	w.WriteHeader(http.StatusOK)
	return nil
}

// VisitExportSubjectsResponse begins no export.
func (n nothing) VisitExportSubjectsResponse(w http.ResponseWriter) error { return n.answer(w) }

// VisitFollowStyleTransferResponse begins no stream of events.
func (n nothing) VisitFollowStyleTransferResponse(w http.ResponseWriter) error { return n.answer(w) }

// subjectExport answers an export while it is read.
type subjectExport struct {
	*server
	ctx            context.Context // the request's, which the generated interface does not hand on
	gallery, after string
	crops          bool
}

// VisitExportSubjectsResponse carries the export out. One that fails on the
// way has its connection cut, for its end would look like a good one.
func (e *subjectExport) VisitExportSubjectsResponse(w http.ResponseWriter) error {
	out := &stream{w: w, conn: http.NewResponseController(w), idle: e.BulkIdleTimeout, kind: api.NDJSON}
	_ = out.conn.SetReadDeadline(time.Time{}) // that of a body, which a reader who stays would run into
	out.extend()
	err := e.Store.Export(e.ctx, tenant(e.ctx), e.gallery, e.after, func(r store.Record) (err error) {
		if out.buf, err = api.AppendBulkSubject(out.buf, bulkSubject(r, e.crops)); err != nil || len(out.buf) < exportChunk {
			return err
		}
		return out.flush()
	})
	if err == nil {
		err = out.flush()
	}
	if err == nil || !out.begun {
		return err
	}
	callOf(e.ctx).fails(err)
	e.Logger.WarnContext(e.ctx, "export cut", "request_id", callOf(e.ctx).id, "error", err)
	panic(http.ErrAbortHandler)
}

// bulkSubject writes a record as the contract does.
func bulkSubject(r store.Record, crops bool) api.BulkSubject {
	b := api.BulkSubject{
		SubjectID: r.Subject.ID, Name: optionalText(r.Subject.Name), ExternalID: optionalText(r.Subject.ExternalID), Metadata: r.Subject.Metadata,
		CreatedAt: &r.Subject.CreatedAt, UpdatedAt: &r.Subject.UpdatedAt,
	}
	for _, t := range r.Templates {
		if t.Embedding == nil {
			continue // damaged: the store's log names it, and no import would take it
		}
		out := api.BulkTemplate{
			TemplateID: t.ID, SampleID: optionalText(t.SampleID), ModelID: t.ModelID,
			Embedding: api.BulkEmbedding(t.Embedding), Quality: &t.Quality, CreatedAt: &t.CreatedAt,
		}
		if crops {
			out.Crop = t.Crop
		}
		b.Templates = append(b.Templates, out)
	}
	return b
}
