package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/internal/testfaces"
	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

const oldEncoder = orttest.Encoder

// town is a server that can be stopped and started, with two encoders and a
// key for crops.
type town struct {
	app.Options
	t    *testing.T
	next string // the encoder that is moved to
	stop func()
	url  string
	http *http.Client
}

func newTown(t *testing.T, changes ...func(*app.Options)) *town {
	t.Helper()
	o := options(t)
	for _, change := range changes {
		change(&o)
	}
	own := t.TempDir()
	o.ModelsDir = append(o.ModelsDir, own)
	o.CropKeyFile = []string{keyFile(t, 1)}
	o.RateLimit = 0
	town := &town{Options: o, t: t, next: orttest.SecondEncoder(t, own)}
	town.start()
	t.Cleanup(func() { town.stop() })
	return town
}

func keyFile(t *testing.T, fill byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, bytes.Repeat([]byte{fill}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func (w *town) start() {
	w.t.Helper()
	a, err := app.New(context.Background(), w.Options, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	a.Start()
	w.url, w.http = "http://"+a.Addr(), &http.Client{Transport: &http.Transport{}}
	w.stop = func() {
		w.stop = func() {}
		w.http.CloseIdleConnections()
		if err := a.Stop(context.Background()); err != nil {
			w.t.Error(err)
		}
	}
}

func (w *town) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

// do sends a request that must be answered with the status.
func (w *town) do(method, path, contentType string, body []byte, status int, answer any) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := w.http.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	if resp.StatusCode != status {
		w.t.Fatalf("%s %s: %s: %s", method, path, resp.Status, b)
	}
	if answer != nil {
		if err := json.Unmarshal(b, answer); err != nil {
			w.t.Fatalf("%s: %v", b, err)
		}
	}
}

func (w *town) json(method, path, body string, status int, answer any) {
	w.t.Helper()
	w.do(method, path, "application/json", []byte(body), status, answer)
}

func (w *town) photo(path, field string, photo []byte, status int, answer any, fields ...string) {
	w.t.Helper()
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	part, err := form.CreateFormFile(field, "photo")
	if err == nil {
		_, err = part.Write(photo)
	}
	for i := 0; i < len(fields) && err == nil; i += 2 {
		err = form.WriteField(fields[i], fields[i+1])
	}
	if err != nil || form.Close() != nil {
		w.t.Fatal(err)
	}
	w.do(http.MethodPost, path, form.FormDataContentType(), b.Bytes(), status, answer)
}

func (w *town) gallery(name string, storeImages bool) {
	w.t.Helper()
	w.json(http.MethodPost, "/galleries", fmt.Sprintf(`{"name": %q, "store_images": %v}`, name, storeImages), 201, nil)
}

// enrol adds a photo, and the subject with the first.
func (w *town) enrol(gallery, subject string, photo []byte) (template string) {
	w.t.Helper()
	subjects := "/galleries/" + gallery + "/subjects"
	var list struct {
		Items []struct {
			SubjectID string `json:"subject_id"`
		} `json:"items"`
	}
	w.json(http.MethodGet, subjects+"?limit=1000", "", 200, &list)
	known := false
	for _, s := range list.Items {
		known = known || s.SubjectID == subject
	}
	if !known {
		w.json(http.MethodPost, subjects, fmt.Sprintf(`{"subject_id": %q}`, subject), 201, nil)
	}
	var made struct {
		TemplateID string `json:"template_id"`
	}
	w.photo(subjects+"/"+subject+"/templates", "image", photo, 201, &made, "quality_gate", "off")
	return made.TemplateID
}

// models are those of a subject's templates, sorted.
func (w *town) models(gallery, subject string) []string {
	w.t.Helper()
	var list struct {
		Items []struct {
			ModelID string `json:"model_id"`
		} `json:"items"`
	}
	w.json(http.MethodGet, "/galleries/"+gallery+"/subjects/"+subject+"/templates", "", 200, &list)
	ids := []string{}
	for _, t := range list.Items {
		ids = append(ids, t.ModelID)
	}
	slices.Sort(ids)
	return ids
}

// seen is whom a gallery takes a photo for.
type seen struct {
	model, best string
	score       float64
}

func (w *town) recognize(gallery string, photo []byte) seen {
	w.t.Helper()
	var a struct {
		ModelID string `json:"model_id"`
		Faces   []struct {
			Candidates []struct {
				SubjectID string  `json:"subject_id"`
				Score     float64 `json:"score"`
			} `json:"candidates"`
		} `json:"faces"`
	}
	w.photo("/recognize", "probe", photo, 200, &a, "gallery", gallery, "faces", "largest")
	out := seen{model: a.ModelID}
	if len(a.Faces) > 0 && len(a.Faces[0].Candidates) > 0 {
		out.best, out.score = a.Faces[0].Candidates[0].SubjectID, a.Faces[0].Candidates[0].Score
	}
	return out
}

type migration struct {
	Gallery   string `json:"gallery"`
	State     string `json:"state"`
	Subjects  int    `json:"subjects"`
	Covered   int    `json:"covered"`
	Pending   int    `json:"pending"`
	Uncovered int    `json:"uncovered"`
}

func (w *town) migrate(model, gallery string) {
	w.t.Helper()
	w.json(http.MethodPost, "/models/"+model+"/migrate", fmt.Sprintf(`{"gallery": %q}`, gallery), 202, nil)
}

func (w *town) status(model, gallery string) migration {
	w.t.Helper()
	var list struct{ Items []migration }
	w.json(http.MethodGet, "/models/"+model+"/migrate?gallery="+gallery, "", 200, &list)
	if len(list.Items) != 1 {
		w.t.Fatalf("status of one gallery: %+v", list)
	}
	return list.Items[0]
}

// until waits for a state of a gallery's move.
func (w *town) until(model, gallery, state string) migration {
	w.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		m := w.status(model, gallery)
		if m.State == state {
			return m
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s does not come to %s: %+v", gallery, state, m)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (w *town) uncovered(gallery string) map[string]string {
	w.t.Helper()
	var list struct {
		Items []struct {
			SubjectID string `json:"subject_id"`
			Reason    string `json:"reason"`
		} `json:"items"`
	}
	w.json(http.MethodGet, "/galleries/"+gallery+"/uncovered?model_id="+w.next, "", 200, &list)
	out := map[string]string{}
	for _, s := range list.Items {
		out[s.SubjectID] = s.Reason
	}
	return out
}

// couple is somebody with two photos.
type couple struct {
	id               string
	reference, probe []byte
}

// couples are n people who are alone in their photos, which pass the quality gate, of LFW where they are
// more than are at hand.
func (w *town) couples(n int) []couple {
	w.t.Helper()
	if n <= testfaces.People {
		out := make([]couple, n)
		for i := range out {
			out[i] = couple{fmt.Sprintf("person-%d", i+1), testfaces.Photo(w.t, i+1, 1), testfaces.Photo(w.t, i+1, 2)}
		}
		return out
	}
	photos := map[string][]string{}
	var ids []string
	for _, name := range sharedtest.LFW(w.t).Names() {
		if path.Ext(name) != ".jpg" {
			continue
		}
		id := path.Base(path.Dir(name))
		if photos[id] = append(photos[id], name); len(photos[id]) == 2 && face.ValidID(id) {
			ids = append(ids, id)
		}
	}
	alone := func(photo []byte) bool {
		var found struct {
			Faces []struct{ Quality struct{ Reasons []string } }
		}
		w.photo("/detect", "image", photo, 200, &found)
		return len(found.Faces) == 1 && len(found.Faces[0].Quality.Reasons) == 0
	}
	var out []couple
	for i := 0; len(out) < n; i += max(len(ids)/(2*n), 1) {
		names := photos[ids[i]]
		c := couple{ids[i], sharedtest.Photo(w.t, names[0]), sharedtest.Photo(w.t, names[1])}
		if alone(c.reference) && alone(c.probe) {
			out = append(out, c)
		}
	}
	return out
}

// TestMigration moves galleries to another encoder and back while they are
// used.
func TestMigration(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	people := w.couples(40)
	w.gallery("kept", true)
	w.gallery("bare", false)
	for i, p := range people {
		w.enrol("kept", p.id, p.reference)
		if i < 4 {
			w.enrol("bare", p.id, p.reference)
		}
	}
	look := func() (all []seen) {
		t.Helper()
		for _, p := range people {
			all = append(all, w.recognize("kept", p.probe))
		}
		return all
	}
	before := look()
	for i, s := range before {
		if s.model != oldEncoder || s.best == "" {
			t.Fatalf("%s is seen as %+v", people[i].id, s)
		}
	}

	w.json(http.MethodPost, "/models/"+w.next+"/migrate", `{}`, 202, nil) // all galleries
	// Whoever is enrolled meanwhile comes along, and whoever is asked for is
	// found, by the one encoder or by the other.
	w.enrol("bare", "newcomer", people[20].reference)
	if got := w.models("bare", "newcomer"); !slices.Equal(got, []string{oldEncoder, w.next}) {
		t.Errorf("who came during the move has templates of %v", got)
	}
	changed := false
	for i, s := range look() {
		if s.best != before[i].best || changed && s.model == oldEncoder {
			t.Errorf("%s was seen as %+v and is seen as %+v during the move", people[i].id, before[i], s)
		}
		changed = s.model == w.next
	}
	done := w.until(w.next, "kept", "done")
	if d := cmp.Diff(migration{Gallery: "kept", State: "done", Subjects: 40, Covered: 40}, done); d != "" {
		t.Error(d)
	}
	for i, s := range look() {
		if s.model != w.next || s.best != before[i].best || s.score < before[i].score-0.05 || s.score > before[i].score+0.05 {
			t.Errorf("%s was seen as %+v and is seen as %+v after the move", people[i].id, before[i], s)
		}
	}
	var g struct {
		ModelID     string `json:"model_id"`
		NextModelID string `json:"next_model_id"`
		Templates   int
	}
	if w.json(http.MethodGet, "/galleries/kept", "", 200, &g); g.ModelID != w.next || g.NextModelID != "" || g.Templates != 80 {
		t.Errorf("the gallery is %+v", g)
	}

	// Who has no crop is listed, known as ever, and comes along with a new photo.
	waiting := w.until(w.next, "bare", "waiting_for_photos")
	if d := cmp.Diff(migration{Gallery: "bare", State: "waiting_for_photos", Subjects: 5, Covered: 1, Uncovered: 4}, waiting); d != "" {
		t.Error(d)
	}
	want := map[string]string{}
	for _, p := range people[:4] {
		want[p.id] = "no_crop"
	}
	if d := cmp.Diff(want, w.uncovered("bare")); d != "" {
		t.Error(d)
	}
	for i, p := range people[:4] {
		if s := w.recognize("bare", p.probe); s.model != oldEncoder || s.best != p.id && s.best != before[i].best {
			t.Errorf("%s is seen as %+v while the gallery waits", p.id, s)
		}
	}
	for _, p := range people[:4] {
		w.enrol("bare", p.id, p.probe)
	}
	w.until(w.next, "bare", "done")
	if got := w.uncovered("bare"); len(got) != 0 {
		t.Errorf("uncovered after the move: %v", got)
	}

	// The way back: the old templates are there, so nothing is to be made.
	w.migrate(oldEncoder, "kept")
	w.until(oldEncoder, "kept", "done")
	if d := cmp.Diff(before, look(), cmp.AllowUnexported(seen{})); d != "" {
		t.Error("after the way back", d)
	}
	// Requests without a gallery were the server's encoder's all the time.
	var v struct {
		ModelID string `json:"model_id"`
	}
	if w.photo("/embed", "image", people[0].probe, 200, &v, "face", "largest"); v.ModelID != oldEncoder {
		t.Errorf("/embed is of %s", v.ModelID)
	}
	if w.photo("/verify", "probe", people[0].probe, 200, &v, "face", "largest", "gallery", "bare", "subject_id", people[0].id); v.ModelID != w.next {
		t.Errorf("/verify in a gallery of %s is of %s", w.next, v.ModelID)
	}
}

// TestMigrationRestarts stops the server in the middle of a move, again and
// again: nobody is lost, and nobody comes twice.
func TestMigrationRestarts(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]func(*testing.T, *app.Options){
		"sqlite": func(*testing.T, *app.Options) {},
		"postgres": func(t *testing.T, o *app.Options) {
			t.Helper()
			o.DatabaseURL = pgtest.Database(t, func(url string) error {
				_, _, err := app.Migrate(context.Background(), app.StoreLocation{DatabaseURL: url})
				return err
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			migrationRestarts(t, newTown(t, func(o *app.Options) { in(t, o) }))
		})
	}
}

func migrationRestarts(t *testing.T, w *town) {
	t.Helper()
	people := w.couples(12)
	w.gallery("kept", true)
	for _, p := range people {
		w.enrol("kept", p.id, p.reference)
	}
	w.migrate(w.next, "kept")
	for range 3 {
		w.restart()
	}
	w.until(w.next, "kept", "done")
	for _, p := range people {
		if got := w.models("kept", p.id); !slices.Equal(got, []string{oldEncoder, w.next}) {
			t.Errorf("%s has templates of %v", p.id, got)
		}
	}
}

// TestMigrationEnds ends a move that waits.
func TestMigrationEnds(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.gallery("bare", false)
	p := w.couples(1)[0]
	w.enrol("bare", p.id, p.reference)
	w.migrate(w.next, "bare")
	w.until(w.next, "bare", "waiting_for_photos")
	var list struct{ Items []migration }
	w.json(http.MethodDelete, "/models/"+w.next+"/migrate", "", 200, &list)
	if d := cmp.Diff([]migration{{Gallery: "bare", State: "canceled", Subjects: 1, Uncovered: 1}}, list.Items); d != "" {
		t.Error(d)
	}
	w.enrol("bare", "another", p.probe)
	if got := w.models("bare", "another"); !slices.Equal(got, []string{oldEncoder}) {
		t.Errorf("after the end of the move somebody is enrolled with %v", got)
	}
}

// TestCropKeys starts servers with the wrong key, with none, and with both.
func TestCropKeys(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.gallery("kept", true)
	people := w.couples(3)
	for _, p := range people {
		w.enrol("kept", p.id, p.reference)
	}
	right, wrong := w.CropKeyFile[0], keyFile(t, 2)
	w.CropKeyFile = []string{wrong}
	w.restart()
	w.migrate(w.next, "kept")
	w.until(w.next, "kept", "waiting_for_photos")
	want := map[string]string{}
	for _, p := range people {
		want[p.id] = "crop_unusable"
	}
	if d := cmp.Diff(want, w.uncovered("kept")); d != "" {
		t.Error(d)
	}
	// A new photo, sealed with this key, is as good as ever.
	w.enrol("kept", people[0].id, people[0].probe)
	delete(want, people[0].id)
	deadline := time.Now().Add(time.Minute)
	for len(w.uncovered("kept")) != len(want) && time.Now().Before(deadline) {
		<-time.After(5 * time.Millisecond)
	}
	if d := cmp.Diff(want, w.uncovered("kept")); d != "" {
		t.Error(d)
	}
	w.CropKeyFile = []string{wrong, right}
	w.restart()
	w.until(w.next, "kept", "done")

	w.stop()
	o := w.Options
	o.CropKeyFile = nil
	if _, err := app.New(t.Context(), o, "test", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "--crop-key-file: the gallery kept") {
		t.Errorf("without a key: %v", err)
	}
	o.CropKeyFile = []string{filepath.Join(t.TempDir(), "nothing")}
	if _, err := app.New(t.Context(), o, "test", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "--crop-key-file: ") {
		t.Errorf("with a key file that is not there: %v", err)
	}
	// Nor does a server start that lacks the encoder of a gallery.
	o.CropKeyFile, o.ModelsDir = []string{right}, nil
	if _, err := app.New(t.Context(), o, "test", slog.New(slog.DiscardHandler)); err == nil ||
		!strings.Contains(err.Error(), "the gallery kept needs the encoder "+w.next) {
		t.Errorf("without the encoder of a gallery: %v", err)
	}
}

// TestNextEncoderMissing starts a server without the encoder that a gallery
// is being moved to: the others have no part in it.
func TestNextEncoderMissing(t *testing.T) {
	t.Parallel()
	o := options(t)
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(o.DataDir, "likeness.db")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.CreateGallery(t.Context(), face.DefaultTenant, face.Gallery{ID: "moving", NextModelID: "from-the-future"})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	a, err := app.New(t.Context(), o, "test", slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "gallery=moving encoder=from-the-future") {
		t.Errorf("the log does not name it: %s", &log)
	}
}

// TestErasedCropIsGone looks for a sealed crop in the files of the store.
func TestErasedCropIsGone(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.gallery("kept", true)
	p := w.couples(1)[0]
	template := w.enrol("kept", p.id, p.reference)
	w.migrate(w.next, "kept")
	w.until(w.next, "kept", "done")

	w.stop()
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(w.DataDir, "likeness.db")})
	if err != nil {
		t.Fatal(err)
	}
	sample, err := s.Sample(t.Context(), face.DefaultTenant, "kept", template)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil || len(sample.Crop) < 2000 || bytes.Contains(sample.Crop, []byte("\xff\xd8\xff")) {
		t.Fatalf("a crop of %d bytes, sealed or not: %v", len(sample.Crop), err)
	}
	holds := func() (n int) {
		// Another process reads the files: closing one here would drop locks.
		all, err := exec.CommandContext(t.Context(), "sh", "-c", `cat "$0"/*.db*`, w.DataDir).Output()
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+32 <= len(sample.Crop); i += 32 {
			if bytes.Contains(all, sample.Crop[i:i+32]) {
				n++
			}
		}
		return n
	}
	w.start()
	if holds() < len(sample.Crop)/64 {
		t.Fatal("the crop is not in the files to begin with")
	}
	var receipt struct{ Templates, Images int }
	w.json(http.MethodDelete, "/galleries/kept/subjects/"+p.id, "", 200, &receipt)
	if receipt.Templates != 2 || receipt.Images != 1 {
		t.Errorf("receipt %+v", receipt)
	}
	// At once, unless a reader stood in the way: then within seconds.
	left := holds()
	for tick, end := time.NewTicker(200*time.Millisecond), time.Now().Add(30*time.Second); left > 0 && time.Now().Before(end); <-tick.C {
		left = holds()
	}
	if left != 0 {
		t.Errorf("%d pieces of the crop are still in the files", left)
	}
}
