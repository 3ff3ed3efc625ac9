package handlers_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

const importPath = "/galleries/default/import"

// line is a subject with one template, as NDJSON.
func line(tb testing.TB, id string, number uint8) string {
	tb.Helper()
	b, err := api.AppendBulkSubject(nil, api.BulkSubject{
		SubjectID: id, Name: new("Name of " + id),
		Templates: api.BulkTemplates{{TemplateID: "t-" + id, ModelID: modelID, Embedding: api.BulkEmbedding(vector(number, 0)), Quality: new(float32(0.1))}},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func ndjson(path string, body io.Reader) *http.Request {
	r := httptest.NewRequest(http.MethodPost, path, body)
	r.Header.Set("Content-Type", api.NDJSON)
	return r
}

// results reads the answer of an import; sum is nil where it has no end.
func results(tb testing.TB, answer io.Reader) (lines []api.BulkResult, sum *api.BulkSummary) {
	tb.Helper()
	scan := bufio.NewScanner(answer)
	for scan.Scan() {
		if sum != nil {
			tb.Fatalf("after the summary comes %s", scan.Text())
		}
		if bytes.Contains(scan.Bytes(), []byte(`"done":`)) {
			sum = &api.BulkSummary{}
			if err := json.Unmarshal(scan.Bytes(), sum); err != nil {
				tb.Fatal(err)
			}
			continue
		}
		var r api.BulkResult
		if err := json.Unmarshal(scan.Bytes(), &r); err != nil {
			tb.Fatalf("%s: %v", scan.Text(), err)
		}
		lines = append(lines, r)
	}
	return lines, sum
}

// imports sends a body that must be answered 200.
func (h *house) imports(tb testing.TB, path string, body io.Reader) ([]api.BulkResult, *api.BulkSummary) {
	tb.Helper()
	a := h.ask(tb, ndjson(path, body))
	if a.status != 200 || a.header.Get("Content-Type") != api.NDJSON {
		tb.Fatalf("%d %s", a.status, a.body)
	}
	return results(tb, bytes.NewReader(a.body))
}

func (h *house) exports(tb testing.TB, query string) string {
	tb.Helper()
	a := h.do(tb, http.MethodGet, "/galleries/default/export"+query)
	if a.status != 200 || a.header.Get("Content-Type") != api.NDJSON {
		tb.Fatalf("%d %s", a.status, a.body)
	}
	return string(a.body)
}

// TestBulkRoundTrip: what one server gives out, another takes in, gives out
// again byte for byte, and answers from alike.
func TestBulkRoundTrip(t *testing.T) {
	t.Parallel()
	from, to := open(t, nil), open(t, nil)
	var many strings.Builder
	for i := range 300 { // more than a batch
		many.WriteString(line(t, fmt.Sprintf("s%04d", i), uint8(i)))
	}
	if _, sum := from.imports(t, importPath, strings.NewReader(many.String())); !sum.Done || sum.Created != 300 {
		t.Fatalf("%+v", sum)
	}
	odd := `{"subject_id":"odd","name":"<Zoë> & \u2028","external_id":"7","metadata":{"html":"` + strings.Repeat("<", 4000) + `"},` +
		`"created_at":"2020-01-02T03:04:05.000006Z","updated_at":"2021-01-02T03:04:05Z","templates":[` +
		`{"template_id":"o1","sample_id":"photo","model_id":"elsewhere","embedding":[0.6, -8e-1],"quality":0.123456789,"created_at":"2020-01-02T03:04:05Z"},` +
		`{"template_id":"o2","sample_id":"photo","model_id":"elsewhere.v2","embedding":[1,0,0]}]}`
	if lines, sum := from.imports(t, importPath, strings.NewReader(odd)); !sum.Done || sum.Created != 1 || lines[0].Templates != 2 {
		t.Fatalf("%+v %+v", lines, sum)
	}
	out := from.exports(t, "")
	lines, sum := to.imports(t, importPath, strings.NewReader(out))
	if diff := cmp.Diff(api.BulkSummary{Done: true, Lines: 301, Created: 301, Templates: 302, OtherModels: 2}, *sum); diff != "" {
		t.Error(diff)
	}
	if len(lines) != 301 || lines[0].Line != 1 || *lines[0].SubjectID != "odd" || lines[0].Status != api.BulkResultStatusCreated || lines[300].Line != 301 {
		t.Errorf("%d lines: %+v ... %+v", len(lines), lines[0], lines[len(lines)-1])
	}
	if again := to.exports(t, ""); again != out {
		t.Error("what was imported is exported otherwise")
	}
	if _, sum := to.imports(t, importPath, strings.NewReader(out)); sum.Unchanged != 301 || sum.Templates != 0 || !sum.Done {
		t.Errorf("again: %+v", sum)
	}
	v := good[api.VerifyResponse](t, to.post(t, "/verify", fields{"probe": photo(person{number: 7}), "subject_id": "s0007"}), 200)
	if !v.Match {
		t.Errorf("%+v", v)
	}
	// From the middle on.
	rest := to.exports(t, "?after=s0297")
	if got := strings.Count(rest, "\n"); got != 2 || !strings.HasPrefix(rest, `{"created_at"`) || !strings.Contains(rest, `"subject_id":"s0298"`) {
		t.Errorf("after s0297: %s", rest)
	}
	if all := to.exports(t, "?after=zzz"); all != "" {
		t.Errorf("after the last: %s", all)
	}
	bad(t, to.do(t, http.MethodGet, "/galleries/none/export"), face.NotFound, "")
	bad(t, to.ask(t, ndjson("/galleries/none/import", strings.NewReader(""))), face.NotFound, "")
	bad(t, to.do(t, http.MethodGet, "/galleries/default/export?after=a%2Fb"), face.Invalid, "after")
}

// TestImportLines: each line stands for itself.
func TestImportLines(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	numbers, err := json.Marshal([]float32(vector(9, 0)))
	if err != nil {
		t.Fatal(err)
	}
	short := base64.StdEncoding.EncodeToString(make([]byte, 7))
	template := func(fields string) string {
		return `{"subject_id":"x","templates":[{"template_id":"ok","model_id":"other","embedding":[1]},{` + fields + `}]}`
	}
	tests := []struct {
		line, status, code, pointer string
	}{
		{strings.TrimSuffix(line(t, "ada", 1), "\n"), "created", "", ""},
		{"  ", "", "", ""},
		{strings.TrimSuffix(line(t, "ada", 1), "\n") + "\r", "unchanged", "", ""},
		{`{"subject_id":"ada","templates":[{"template_id":"t2","model_id":"test-encoder","embedding":` + string(numbers) + `}]}`, "updated", "", ""},
		{`{"subject_id":"ada","templates":[{"template_id":"t-ada","model_id":"test-encoder","embedding":` + string(numbers) + `}]}`, "refused", "conflict", ""},
		{`{"subject_id":"bare"} `, "created", "", ""},
		{`{"subject_id":"x"} trailing`, "refused", "invalid_request", ""},
		{`{"subject_id":"x"}{"subject_id":"y"}`, "refused", "invalid_request", ""},
		{`{"subject_id":"x"`, "refused", "invalid_request", ""},
		{`[]`, "refused", "invalid_request", ""},
		{`null`, "refused", "invalid_request", ""},
		{`{}`, "refused", "invalid_request", "/subject_id"},
		{`{"subject_id":"a/b"}`, "refused", "invalid_request", "/subject_id"},
		{`{"subject_id":"x","nmae":"X"}`, "refused", "invalid_request", "/nmae"},
		{`{"subject_id":"x","subject_id":"x"}`, "refused", "invalid_request", "/subject_id"},
		{`{"subject_id":"x","name":null}`, "refused", "invalid_request", "/name"},
		{`{"subject_id":"x","name":"` + strings.Repeat("n", 201) + `"}`, "refused", "invalid_request", "/name"},
		{`{"subject_id":"x","metadata":[]}`, "refused", "invalid_request", "/metadata"},
		{`{"subject_id":"x","created_at":"yesterday"}`, "refused", "invalid_request", "/created_at"},
		{`{"subject_id":"x","templates":{}}`, "refused", "invalid_request", "/templates"},
		{`{"subject_id":"x","templates":[null]}`, "refused", "invalid_request", "/templates/0"},
		{template(`"template_id":"b","embedding":[1]`), "refused", "invalid_request", "/templates/1/model_id"},
		{template(`"template_id":"b","model_id":"m","embedding":[1],"x":1`), "refused", "invalid_request", "/templates/1/x"},
		{template(`"template_id":"b","model_id":"m","embedding":[1,null]`), "refused", "invalid_request", "/templates/1/embedding"},
		{template(`"template_id":"b","model_id":"m","embedding":["1"]`), "refused", "invalid_request", "/templates/1/embedding"},
		{template(`"template_id":"b","model_id":"m","embedding":"` + short + `"`), "refused", "invalid_request", "/templates/1/embedding"},
		{template(`"template_id":"b","model_id":"m","embedding":"???"`), "refused", "invalid_request", "/templates/1/embedding"},
		{template(`"template_id":"b","model_id":"m","embedding":[1e99]`), "refused", "invalid_request", "/templates/1/embedding"},
		{template(`"template_id":"b","model_id":"m","embedding":[3,4]`), "refused", "invalid_request", ""},
		{template(`"template_id":"b","model_id":"m","embedding":[]`), "refused", "invalid_request", ""},
		{template(`"template_id":"b","model_id":"m","embedding":"AADAfw=="`), "refused", "invalid_request", ""}, // NaN
		{template(`"template_id":"b","model_id":"m","embedding":[1],"quality":2`), "refused", "invalid_request", "/templates/1/quality"},
		{template(`"template_id":"a/b","model_id":"m","embedding":[1]`), "refused", "invalid_request", ""},
		{template(`"template_id":"b","model_id":"test-encoder","embedding":[1]`), "refused", "model_mismatch", "/templates/1/embedding"},
		{template(`"template_id":"b","model_id":"other","embedding":[0,1]`), "refused", "model_mismatch", ""},
		{template(`"template_id":"b","model_id":"m","embedding":[1],"crop":"!"`), "refused", "invalid_request", "/templates/1/crop"},
		{`{"subject_id":"` + strings.Repeat("x", api.MaxBulkLine) + `"}`, "refused", "too_large", ""},
		{"\xff", "refused", "invalid_request", ""},
		{strings.TrimSuffix(line(t, "last", 3), "\n"), "created", "", ""}, // without an end of line
	}
	var body []string
	for _, tt := range tests {
		body = append(body, tt.line)
	}
	lines, sum := h.imports(t, importPath, strings.NewReader(strings.Join(body, "\n")))
	if len(lines) != len(tests)-1 || !sum.Done || sum.Lines != int64(len(tests)) || sum.Error != nil {
		t.Fatalf("%d results of %d lines, %+v", len(lines), len(tests), sum)
	}
	for i, tt := range tests {
		if tt.status == "" {
			continue
		}
		got := lines[0]
		lines = lines[1:]
		code, pointer := "", ""
		if got.Error != nil {
			code = string(got.Error.Code)
			if got.Error.Pointer != nil {
				pointer = *got.Error.Pointer
			}
			if got.Error.Detail == nil {
				t.Errorf("line %d: no detail", i+1)
			}
		}
		if got.Line != int64(i+1) || string(got.Status) != tt.status || code != tt.code || pointer != tt.pointer {
			b, _ := json.Marshal(got)
			t.Errorf("line %d, %.80s: %s; want %s %s %s", i+1, tt.line, b, tt.status, tt.code, tt.pointer)
		}
	}
	bad(t, h.do(t, http.MethodGet, "/galleries/default/subjects/x"), face.NotFound, "")
	if g := good[api.Gallery](t, h.do(t, http.MethodGet, "/galleries/default"), 200); g.Subjects != 3 || g.Templates != 3 {
		t.Errorf("%+v", g)
	}
}

func TestImportFromLine(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	body := "not looked at\n" + strings.Repeat("x", api.MaxBulkLine+5) + "\n" + line(t, "a", 1) + line(t, "b", 2) + line(t, "a", 1)
	lines, sum := h.imports(t, importPath+"?from_line=4", strings.NewReader(body))
	if len(lines) != 2 || lines[0].Line != 4 || *lines[0].SubjectID != "b" || sum.Lines != 5 || sum.Created != 2 {
		t.Errorf("%+v %+v", lines, sum)
	}
	if lines, sum := h.imports(t, importPath+"?from_line=99", strings.NewReader(body)); len(lines) != 0 || !sum.Done || sum.Lines != 5 {
		t.Errorf("%+v %+v", lines, sum)
	}
	if lines, sum := h.imports(t, importPath, strings.NewReader("")); len(lines) != 0 || !sum.Done {
		t.Errorf("nothing: %+v %+v", lines, sum)
	}
	bad(t, h.ask(t, ndjson(importPath+"?from_line=0", strings.NewReader(body))), face.Invalid, "from_line")
	r := ndjson(importPath, strings.NewReader(body))
	r.Header.Set("Content-Type", "text/plain")
	bad(t, h.ask(t, r), face.UnsupportedMediaType, "")
}

// listen serves the house over a real connection.
func (h *house) listen(tb testing.TB) (url string) {
	tb.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ReadTimeout, srv.Config.WriteTimeout = time.Second, time.Second // an import outlives them
	srv.Start()
	tb.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		srv.Close()
	})
	return srv.URL
}

// send begins an import over a connection; the answer comes when there is one.
func send(tb testing.TB, url string, body io.Reader, header ...string) <-chan *http.Response {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, url+importPath, body)
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", api.NDJSON)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	answered := make(chan *http.Response, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req) //nolint:bodyclose // whoever takes it closes it
		if err != nil {
			resp = nil
		}
		answered <- resp
	}()
	return answered
}

// TestImportStreams: results come while the body is still being sent, for
// longer than any other request may take; meanwhile the key has no other import.
func TestImportStreams(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) { o.RequestTimeout = 1500 * time.Millisecond })
	url := h.listen(t)
	r, w := io.Pipe()
	answered := send(t, url, r)
	began := time.Now()
	write := func(s string) {
		t.Helper()
		if _, err := io.WriteString(w, s); err != nil {
			t.Fatal(err)
		}
	}
	write(line(t, "first", 1))
	resp := <-answered
	if resp == nil || resp.StatusCode != 200 {
		t.Fatalf("%v", resp)
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	read := func() api.BulkResult {
		t.Helper()
		text, err := in.ReadBytes('\n')
		var l api.BulkResult
		if err == nil {
			err = json.Unmarshal(text, &l)
		}
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return l
	}
	for i := 0; time.Since(began) < 2*time.Second; i++ {
		id := fmt.Sprint("s", i)
		write(line(t, id, 2))
		if i == 0 {
			read() // of the first
		}
		if l := read(); *l.SubjectID != id || l.Status != api.BulkResultStatusCreated {
			t.Fatalf("%+v", l)
		}
		if i == 3 {
			bad(t, h.ask(t, ndjson(importPath, strings.NewReader(line(t, "other", 3)))), face.Overloaded, "")
			good[api.Gallery](t, h.do(t, http.MethodGet, "/galleries/default"), 200)
		}
	}
	w.Close()
	if rest, sum := results(t, in); len(rest) != 0 || !sum.Done || sum.Created < 5 {
		t.Errorf("%+v %+v", rest, sum)
	}
	if _, sum := h.imports(t, importPath, strings.NewReader(line(t, "other", 3))); sum.Created != 1 {
		t.Errorf("afterwards: %+v", sum)
	}
}

// TestImportCut: what came whole is taken, what was cut off is not, and the
// answer does not look like a good one.
func TestImportCut(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for name, end := range map[string]string{"between lines": "", "in a line": `{"subject_id":"half"`, "in a line that looks whole": `{"subject_id":"half"}`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t, nil)
			body := io.MultiReader(strings.NewReader(line(t, "a", 1)+line(t, "b", 2)+end), iotest.ErrReader(broken))
			lines, sum := h.imports(t, importPath, body)
			if len(lines) != 2 || sum.Done || sum.Error == nil || sum.Created != 2 {
				t.Errorf("%+v %+v", lines, sum)
			}
			bad(t, h.do(t, http.MethodGet, "/galleries/default/subjects/half"), face.NotFound, "")
			// With nothing answered yet it is a problem as any other.
			bad(t, h.ask(t, ndjson(importPath, io.MultiReader(strings.NewReader(end), iotest.ErrReader(broken)))), face.Invalid, "")
		})
	}
	t.Run("the client goes away", func(t *testing.T) {
		t.Parallel()
		h := open(t, nil)
		url := h.listen(t)
		r, w := io.Pipe()
		answered := send(t, url, r)
		if _, err := io.WriteString(w, line(t, "a", 1)); err != nil {
			t.Fatal(err)
		}
		resp := <-answered
		if resp == nil {
			t.Fatal("no answer")
		}
		resp.Body.Close() // and with it the connection
		w.CloseWithError(broken)
		// The key may import again once the server has noticed.
		awaitTrue(t, func() bool { return h.ask(t, ndjson(importPath, strings.NewReader(line(t, "b", 2)))).status == 200 })
		good[api.Subject](t, h.do(t, http.MethodGet, "/galleries/default/subjects/a"), 200)
	})
	t.Run("the client does nothing", func(t *testing.T) {
		t.Parallel()
		h := open(t, func(o *options) { o.BulkIdleTimeout = time.Second })
		url := h.listen(t)
		r, w := io.Pipe()
		defer w.Close()
		answered := send(t, url, r)
		if _, err := io.WriteString(w, line(t, "a", 1)); err != nil {
			t.Fatal(err)
		}
		resp := <-answered
		if resp == nil {
			t.Fatal("no answer")
		}
		defer resp.Body.Close()
		if lines, sum := results(t, resp.Body); len(lines) != 1 || sum == nil || sum.Done || sum.Error.Code != "deadline_exceeded" {
			t.Errorf("%+v %+v", lines, sum)
		}
	})
}

// awaitTrue asks until it is so, or the test's patience ends.
func awaitTrue(tb testing.TB, is func() bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !is(); <-tick.C {
		if time.Now().After(deadline) {
			tb.Fatal("it did not come about")
		}
	}
}

// failing is a store that fails when it is told to.
type failing struct {
	store.Store
	imports, decisions, exports atomic.Int64 // calls that still succeed; less than 0: all

	slow time.Duration // how long an export takes
}

func (f *failing) use(n *atomic.Int64) error {
	if n.Load() < 0 || n.Add(-1) >= 0 {
		return nil
	}
	n.Store(0)
	return face.Wrap(face.Internal, "test", errors.New("the secret cause"))
}

func (f *failing) Import(ctx context.Context, tenant, gallery string, records []store.Record) ([]store.Outcome, error) {
	if err := f.use(&f.imports); err != nil {
		return nil, err
	}
	return f.Store.Import(ctx, tenant, gallery, records)
}

func (f *failing) Export(ctx context.Context, tenant, gallery, after string, emit func(store.Record) error) error {
	if f.slow > 0 {
		select {
		case <-time.After(f.slow):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return f.Store.Export(ctx, tenant, gallery, after, func(r store.Record) error {
		if err := f.use(&f.exports); err != nil {
			return err
		}
		return emit(r)
	})
}

func (f *failing) RecordDecision(ctx context.Context, tenant string, by store.Actor, d store.Decision) error {
	if err := f.use(&f.decisions); err != nil {
		return err
	}
	return f.Store.RecordDecision(ctx, tenant, by, d)
}

func openFailing(tb testing.TB, change func(*options)) (*house, *failing) {
	tb.Helper()
	f := &failing{}
	f.imports.Store(-1)
	f.decisions.Store(-1)
	f.exports.Store(-1)
	h := open(tb, func(o *options) {
		f.Store, o.Store = o.Store, f
		if change != nil {
			change(o)
		}
	})
	return h, f
}

// TestBulkFaults: a store that fails on the way is told of in the answer, and
// before there is any, as everywhere.
func TestBulkFaults(t *testing.T) {
	t.Parallel()
	h, f := openFailing(t, nil)
	f.imports.Store(0)
	a := h.ask(t, ndjson(importPath, strings.NewReader(line(t, "a", 1))))
	bad(t, a, face.Internal, "")
	// Each batch ends where a subject comes again.
	f.imports.Store(2)
	body := line(t, "a", 1) + line(t, "a", 1) + line(t, "a", 1) + line(t, "a", 1)
	lines, sum := h.imports(t, importPath, strings.NewReader(body))
	if len(lines) < 3 || lines[1].Status != api.BulkResultStatusUnchanged || lines[2].Status != api.BulkResultStatusFailed ||
		lines[2].Error.Code != "internal" || sum.Done || sum.Error.Code != "internal" || sum.Failed != 1 {
		t.Errorf("%+v %+v", lines, sum)
	}
	if strings.Contains(fmt.Sprint(*lines[2].Error.Detail, *sum.Error.Detail), "secret") || !strings.Contains(h.logs.String(), "the secret cause") {
		t.Errorf("the cause is told, or not logged:\n%s", h.logs)
	}
	f.imports.Store(-1)
	if _, sum := h.imports(t, importPath+"?from_line=3", strings.NewReader(body)); !sum.Done || sum.Unchanged != 2 {
		t.Errorf("going on: %+v", sum)
	}

	var many strings.Builder
	for i := range 300 {
		many.WriteString(line(t, fmt.Sprint("s", i), uint8(i)))
	}
	h.imports(t, importPath, strings.NewReader(many.String()))
	f.exports.Store(0)
	bad(t, h.do(t, http.MethodGet, "/galleries/default/export"), face.Internal, "")
	f.exports.Store(290) // after the first chunks were sent
	resp, err := http.Get(h.listen(t) + "/galleries/default/export")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err == nil || len(b) == 0 || resp.StatusCode != 200 {
		t.Errorf("an export that failed ends well: %d bytes, %v", len(b), err)
	}
}

// TestBulkOutlivesTimeouts: an export, and an import of which nothing is heard yet,
// may take longer than any other request, and leave the connection as it was.
func TestBulkOutlivesTimeouts(t *testing.T) {
	t.Parallel()
	h, f := openFailing(t, func(o *options) { o.RequestTimeout = 1500 * time.Millisecond })
	h.imports(t, importPath, strings.NewReader(line(t, "a", 1)+line(t, "b", 2)))
	f.slow = 1700 * time.Millisecond
	url := h.listen(t)
	for range 2 { // over one connection
		resp, err := http.Get(url + "/galleries/default/export")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || bytes.Count(b, []byte("\n")) != 2 {
			t.Fatalf("%d %s %v", resp.StatusCode, b, err)
		}
		in := <-send(t, url, strings.NewReader(line(t, "a", 1)))
		if in == nil || in.StatusCode != 200 {
			t.Fatalf("%v", in)
		}
		_, sum := results(t, in.Body)
		in.Body.Close()
		if sum == nil || !sum.Done {
			t.Fatalf("%+v", sum)
		}
	}
}

func TestAuditDecisions(t *testing.T) {
	t.Parallel()
	h, f := openFailing(t, func(o *options) { o.Identity.AuditDecisions = true })
	h.enrolled(t, "default", "ada", person{number: 1})
	h.enrolled(t, "default", "grace", person{number: 2})
	verify := func(number uint8) answer {
		return h.post(t, "/verify", fields{"probe": photo(person{number: number}), "subject_id": "ada"})
	}
	recognize := func() answer {
		return h.post(t, "/recognize", fields{"probe": photo(person{number: 2}, person{number: 99}, person{number: 1, poor: true})})
	}
	good[api.VerifyResponse](t, verify(1), 200)
	good[api.VerifyResponse](t, verify(2), 200)
	good[api.RecognizeResponse](t, recognize(), 200)
	good[api.RecognizeResponse](t, h.post(t, "/recognize", fields{"probe_embedding": vector(2, 0), "model_id": modelID}), 200)
	good[api.VerifyResponse](t, h.post(t, "/verify", fields{"probe": photo(person{number: 1}), "reference": photo(person{number: 1})}), 200)
	var got []string
	list := func() (got []string) {
		err := h.store.AuditTrail(t.Context(), 0, func(r store.AuditRecord) error {
			if r.Tenant != face.DefaultTenant || r.Gallery != face.DefaultGallery || r.RequestID == "" {
				t.Errorf("%+v", r)
			}
			got = append(got, r.Action+" "+r.SubjectID+" "+r.Decision)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	want := []string{"verify ada match", "verify ada non_match", "recognize grace match", "recognize  unknown", "recognize  low_quality", "recognize grace match"}
	if got = list(); !slices.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	// No door opens on a decision that is not recorded.
	f.decisions.Store(0)
	a := verify(1)
	bad(t, a, face.Unavailable, "")
	bad(t, recognize(), face.Unavailable, "")
	if bytes.Contains(a.body, []byte("secret")) || bytes.Contains(a.body, []byte("match")) {
		t.Errorf("%s", a.body)
	}
	if text := string(h.do(t, http.MethodGet, "/metrics").body); !strings.Contains(text, `likeness_decisions_total{decision="match",route="/verify"} 2`) {
		t.Error("a decision that was not given is counted")
	}

	quiet := open(t, nil)
	quiet.enrolled(t, "default", "ada", person{number: 1})
	good[api.VerifyResponse](t, quiet.post(t, "/verify", fields{"probe": photo(person{number: 1}), "subject_id": "ada"}), 200)
	if n, err := quiet.store.VerifyAudit(t.Context()); n != 0 || err != nil {
		t.Errorf("%d decisions recorded unasked, %v", n, err)
	}
}

// FuzzImport sends any body: whatever it is, each line that is not blank has
// its result, in order, and the summary adds up.
func FuzzImport(f *testing.F) {
	h := open(f, nil)
	f.Add([]byte(line(f, "ada", 1) + "\n\r\n" + line(f, "grace", 2)))
	f.Add([]byte(`{"subject_id":"x","metadata":{"a":[1,{"b":"}]"}]},"templates":[{"template_id":"t","model_id":"m","embedding":[1]},{}]}`))
	f.Add([]byte(`{"subject_id":"x","templates":[ ]}` + "\n" + `{"subject_id":"x","templates":[{"embedding":"AACAPw==","template_id":"q","model_id":"m"} , 1]}`))
	f.Add([]byte("{\"subject_id\":\"\\u0078\"}\n\xef\xbb\xbf{}\n[[[[\n\"\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		lines, sum := h.imports(t, importPath, bytes.NewReader(body))
		var want []int64
		all := bytes.Split(body, []byte("\n"))
		if len(all[len(all)-1]) == 0 {
			all = all[:len(all)-1]
		}
		for i, l := range all {
			if len(bytes.TrimSpace(l)) > 0 {
				want = append(want, int64(i+1))
			}
		}
		var got []int64
		for _, l := range lines {
			got = append(got, l.Line)
			if (l.Error == nil) == (l.Status == api.BulkResultStatusRefused) || l.Status == api.BulkResultStatusFailed {
				t.Errorf("%+v", l)
			}
		}
		if !slices.Equal(want, got) || !sum.Done || sum.Lines != int64(len(all)) ||
			sum.Created+sum.Updated+sum.Unchanged+sum.Refused != int64(len(lines)) {
			t.Errorf("%q: lines %v, want %v; %+v", body, got, want, sum)
		}
	})
}

// paused is a store whose export waits halfway until it is told to go on.
type paused struct {
	store.Store
	goOn chan struct{}
}

func (p *paused) Export(ctx context.Context, tenant, gallery, after string, emit func(store.Record) error) error {
	n := 0
	return p.Store.Export(ctx, tenant, gallery, after, func(r store.Record) error {
		if n++; n == 290 {
			select {
			case <-p.goOn:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return emit(r)
	})
}

// TestExportStreams: what is exported is sent on as it comes, whatever header a
// caller makes up.
func TestExportStreams(t *testing.T) {
	t.Parallel()
	p := &paused{goOn: make(chan struct{})}
	h := open(t, func(o *options) { p.Store, o.Store = o.Store, p })
	var many strings.Builder
	for i := range 300 {
		many.WriteString(line(t, fmt.Sprint("s", i), uint8(i)))
	}
	h.imports(t, importPath, strings.NewReader(many.String()))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.listen(t)+"/galleries/default/export", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Idempotency-Key", "k")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	if _, err := in.ReadBytes('\n'); err != nil {
		t.Fatalf("nothing comes before all is there: %v", err)
	}
	close(p.goOn)
	if b, err := io.ReadAll(in); err != nil || bytes.Count(b, []byte("\n")) != 299 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// panicking is a body that takes its reader along.
type panicking struct{}

func (panicking) Read([]byte) (int, error) { panic("the secret cause") }

// TestImportPanics: the lines are read beside the handler, where nobody else
// catches a panic.
func TestImportPanics(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	bad(t, h.ask(t, ndjson(importPath, panicking{})), face.Internal, "")
	lines, sum := h.imports(t, importPath, io.MultiReader(strings.NewReader(line(t, "a", 1)), panicking{}))
	if len(lines) != 1 || sum.Done || sum.Error == nil || sum.Error.Code != "internal" || strings.Contains(*sum.Error.Detail, "secret") {
		t.Errorf("%+v %+v", lines, sum)
	}
	if n := strings.Count(h.logs.String(), "panic: the secret cause"); n != 2 {
		t.Errorf("logged %d times:\n%s", n, h.logs)
	}
}

// portions is a store that notes how much each import brings. The first one
// waits until told that there is nothing more to come.
type portions struct {
	store.Store
	sent chan struct{}
	most atomic.Int64 // templates
}

func (p *portions) Import(ctx context.Context, tenant, gallery string, records []store.Record) ([]store.Outcome, error) {
	<-p.sent
	var n int64
	for _, r := range records {
		n += int64(len(r.Templates))
	}
	p.most.Store(max(p.most.Load(), n))
	return p.Store.Import(ctx, tenant, gallery, records)
}

// closing closes a channel where a body ends.
type closing struct{ ended chan struct{} }

func (c closing) Read([]byte) (int, error) {
	close(c.ended)
	return 0, io.EOF
}

// TestImportTemplates: neither a line nor a batch brings templates without end.
func TestImportTemplates(t *testing.T) {
	t.Parallel()
	p := &portions{sent: make(chan struct{})}
	h := open(t, func(o *options) { p.Store, o.Store = o.Store, p })
	of := func(subject string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,{"template_id":"%s-%d","model_id":"m","embedding":[1]}`, subject, i)
		}
		return fmt.Sprintf(`{"subject_id":%q,"templates":[%s]}`+"\n", subject, b.String()[1:])
	}
	body := of("many", 1000) + of("too-many", 1001)
	for i := range 16 {
		body += of(fmt.Sprint("s", i), 500)
	}
	lines, sum := h.imports(t, importPath, io.MultiReader(strings.NewReader(body), closing{p.sent}))
	if lines[0].Templates != 1000 || sum.Created != 17 || sum.Refused != 1 || sum.Templates != 9000 {
		t.Errorf("%+v", sum)
	}
	if e := lines[1].Error; *lines[1].SubjectID != "too-many" || e == nil || *e.Pointer != "/templates" {
		t.Errorf("%+v", lines[1])
	}
	if n := p.most.Load(); n > 3000 {
		t.Errorf("%d templates in one batch", n)
	}
}

// TestImportOtherModels: templates that no search of the gallery finds are told of.
func TestImportOtherModels(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	other := `{"template_id":"%s","model_id":"elsewhere","embedding":[1]}`
	body := line(t, "a", 1) + `{"subject_id":"b","templates":[` + fmt.Sprintf(other, "b1") + "," + fmt.Sprintf(other, "b2") + "]}\n" +
		`{"subject_id":"refused","nmae":"","templates":[` + fmt.Sprintf(other, "c1") + "]}\n"
	for range 2 { // what is there already is told of, too
		if _, sum := h.imports(t, importPath, strings.NewReader(body)); sum.OtherModels != 2 || !sum.Done {
			t.Errorf("%+v", sum)
		}
	}
	_, err := h.store.CreateGallery(t.Context(), face.DefaultTenant, face.Gallery{ID: "old", ModelID: "elsewhere", NextModelID: modelID})
	if err != nil {
		t.Fatal(err)
	}
	body = line(t, "x", 1) + `{"subject_id":"y","templates":[` + fmt.Sprintf(other, "y1") + `,{"template_id":"y2","model_id":"third","embedding":[1]}]}`
	if _, sum := h.imports(t, "/galleries/old/import", strings.NewReader(body)); sum.OtherModels != 1 {
		t.Errorf("a gallery that is moved to another model: %+v", sum)
	}
}

// TestExportAudited: nothing leaves the building unrecorded, whatever is
// recorded of decisions.
func TestExportAudited(t *testing.T) {
	t.Parallel()
	h, f := openFailing(t, nil)
	h.imports(t, importPath, strings.NewReader(line(t, "a", 1)))
	h.exports(t, "")
	bad(t, h.do(t, http.MethodGet, "/galleries/none/export"), face.NotFound, "")
	f.decisions.Store(0)
	if a := h.do(t, http.MethodGet, "/galleries/default/export"); bytes.Contains(a.body, []byte("embedding")) {
		t.Errorf("exported all the same: %s", a.body)
	} else {
		bad(t, a, face.Unavailable, "")
	}
	n := 0
	err := h.store.AuditTrail(t.Context(), 0, func(r store.AuditRecord) error {
		n++
		if r.Action != "gallery.export" || r.Tenant != face.DefaultTenant || r.Gallery != face.DefaultGallery || r.RequestID == "" || r.SubjectID+r.Decision != "" {
			t.Errorf("%+v", r)
		}
		return nil
	})
	if n != 1 || err != nil {
		t.Errorf("%d records, %v", n, err)
	}
}

// TestImportSlots: one tenant leaves room for the others.
func TestImportSlots(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) { o.Auth = true })
	url := h.listen(t)
	key := func(tenant string) string {
		t.Helper()
		secret, k := face.NewKey(tenant, "test", []face.Scope{face.ScopeEnrol}, time.Time{})
		if err := h.store.CreateKey(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		return secret
	}
	hold := func(tenant string) {
		t.Helper()
		r, w := io.Pipe()
		answered := send(t, url, r, "X-API-Key", key(tenant))
		_, err := io.WriteString(w, line(t, "a", 1))
		resp := <-answered
		if err != nil || resp == nil || resp.StatusCode != 200 {
			t.Fatalf("%v, %v", err, resp)
		}
		t.Cleanup(func() {
			w.Close()
			resp.Body.Close()
		})
	}
	try := func(tenant string) answer {
		r := ndjson(importPath, strings.NewReader(line(t, "b", 1)))
		r.Header.Set("X-API-Key", key(tenant))
		return h.ask(t, r)
	}
	hold("acme")
	if a := try("acme"); a.status != 200 {
		t.Errorf("a second import of the tenant: %d", a.status)
	}
	hold("acme")
	bad(t, try("acme"), face.Overloaded, "")
	hold("other")
	hold("third")
	bad(t, try("fourth"), face.Overloaded, "")
}

// TestCutIsCounted: a stream that does not end well leaves a line in the log
// and a sample of a metric, with what became of it.
func TestCutIsCounted(t *testing.T) {
	t.Parallel()
	h, f := openFailing(t, nil)
	var many strings.Builder
	for i := range 300 {
		many.WriteString(line(t, fmt.Sprint("s", i), uint8(i)))
	}
	h.imports(t, importPath, strings.NewReader(many.String()))
	f.exports.Store(290)
	resp, err := http.Get(h.listen(t) + "/galleries/default/export")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("%d bytes look like a whole export", len(b))
	}
	h.imports(t, importPath, io.MultiReader(strings.NewReader(line(t, "b", 2)), iotest.ErrReader(errors.New("broken"))))
	for _, c := range []struct{ route, status, code string }{
		{"/galleries/{gallery}/export", "500", "internal"},
		{"/galleries/{gallery}/import", "400", "invalid_request"},
	} {
		awaitTrue(t, func() bool {
			for l := range strings.Lines(h.logs.String()) {
				if strings.Contains(l, `"msg":"request"`) && strings.Contains(l, `"route":"`+c.route+`","status":`+c.status) && strings.Contains(l, `"code":"`+c.code+`"`) {
					return true
				}
			}
			return false
		})
		metric := fmt.Sprintf(`likeness_http_request_duration_seconds_count{code=%q,route=%q} 1`, c.status, c.route)
		if text := string(h.do(t, http.MethodGet, "/metrics").body); !strings.Contains(text, metric) || !strings.Contains(text, "requests_in_flight 1\n") {
			t.Errorf("no %s, or too much in flight:\n%s", metric, text)
		}
	}
}
