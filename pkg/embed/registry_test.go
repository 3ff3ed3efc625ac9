package embed_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

// weights stands for a model's file.
var weights = []byte("weights")

// object is a manifest as JSON, to change and to break.
type object = map[string]any

func manifest(id string) object {
	sum := sha256.Sum256(weights)
	return object{
		"id": id, "task": "encoder", "file": id + ".onnx",
		"sha256": hex.EncodeToString(sum[:]), "size": len(weights),
		"license": "MIT", "source": "a test", "training_data": "none",
		"input":     object{"name": "data", "width": 112, "height": 112, "order": "rgb", "mean": []int{0, 0, 0}, "scale": []int{1, 1, 1}},
		"outputs":   []any{object{"name": "out", "shape": []int{1, 4}}},
		"dimension": 4,
		"alignment": [][]float64{{38, 51}, {73, 51}, {56, 71}, {41, 92}, {70, 92}},
	}
}

// with is the object with one value set ("input/width") or, for nil, deleted.
func with(o object, at string, value any) object {
	key, rest, nested := strings.Cut(at, "/")
	if nested {
		with(o[key].(object), rest, value)
	} else if value == nil {
		delete(o, key)
	} else {
		o[key] = value
	}
	return o
}

func encoded(tb testing.TB, o object) []byte {
	tb.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// folder makes a folder of files; an object is written as JSON.
func folder(t *testing.T, files map[string]any) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		data, ok := content.([]byte)
		if !ok {
			data = encoded(t, content.(object))
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func builtin(t *testing.T, ids ...string) fstest.MapFS {
	t.Helper()
	m := fstest.MapFS{"README.md": {Data: []byte("text")}}
	for _, id := range ids {
		m[id+".json"] = &fstest.MapFile{Data: encoded(t, manifest(id))}
	}
	return m
}

func wantRefused(t *testing.T, err error, kind face.Kind, words ...string) {
	t.Helper()
	if err == nil || face.KindOf(err) != kind {
		t.Fatalf("error %v, want %v", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q lacks %q", err, w)
		}
	}
}

func TestParseManifestRules(t *testing.T) {
	t.Parallel()
	head := func(field string, value any) object {
		pairs := object{"people": 9, "mated": 5, "impostor": 5}
		o := object{
			"source": "x", "variant": "cosine", "prior": 0.5, "bias": -1.5, "weights": []any{4.5},
			"platt": object{"slope": 1, "offset": 0.1}, "trained": pairs,
			"held_out": object{"people": 9, "mated": 5, "impostor": 5, "accuracy": 0.9, "expected_calibration_error": 0.01},
		}
		if field != "" {
			o[field] = value
		}
		return o
	}
	calibration := func(points, curve any) object {
		return object{"source": "a test", "comparisons": 10, "points": points, "curve": curve}
	}
	point := func(name string, fmr, threshold float64) object {
		return object{"name": name, "fmr": fmr, "threshold": threshold}
	}
	published := func(field string, value any) object {
		file := func(name string) object {
			return object{"url": "https://example.com/" + name, "sha384": strings.Repeat("0", 96), "size": 7}
		}
		o := object{"format": embed.FormatOpenVINO, "files": []any{file("a.xml"), file("a.bin")}}
		if field == "format" || field == "files" {
			return with(o, field, value)
		}
		if field != "" {
			with(o["files"].([]any)[1].(object), field, value)
		}
		return o
	}
	at := func(score, fmr float64) object { return object{"score": score, "fmr": fmr} }
	for name, c := range map[string]struct {
		field string // what is set
		value any
		want  []string // pointers of the fields that the error names
	}{
		"as it is":             {"notes", "text", nil},
		"id missing":           {"id", nil, []string{"/id"}},
		"id with a slash":      {"id", "a/b", []string{"/id"}},
		"task":                 {"task", "oracle", []string{"/task"}},
		"file missing":         {"file", nil, []string{"/file"}},
		"file in a folder":     {"file", "../a.onnx", []string{"/file"}},
		"file in a folder too": {"file", `..\a.onnx`, []string{"/file"}},
		"file is a folder":     {"file", "..", []string{"/file"}},
		"sha256 in capitals":   {"sha256", strings.Repeat("A", 64), []string{"/sha256"}},
		"sha256 too short":     {"sha256", "00", []string{"/sha256"}},
		"size 0":               {"size", 0, []string{"/size"}},
		"size huge":            {"size", int64(1) << 40, []string{"/size"}},
		"licence":              {"license", "", []string{"/license"}},
		"source":               {"source", "", []string{"/source"}},
		"training data":        {"training_data", "", []string{"/training_data"}},
		"url in the clear":     {"url", "http://example.com/a.onnx", []string{"/url"}},
		"published":            {"published", published("", nil), nil},
		"published otherwise":  {"published", published("format", "caffe"), []string{"/published/format"}},
		"published in one":     {"published", published("files", []any{}), []string{"/published/files"}},
		"published in clear":   {"published", published("url", "http://example.com/a.bin"), []string{"/published/files/1/url"}},
		"published sha256":     {"published", published("sha384", strings.Repeat("0", 64)), []string{"/published/files/1/sha384"}},
		"published huge":       {"published", published("size", int64(1)<<40), []string{"/published/files/1/size"}},
		"input name":           {"input/name", "", []string{"/input/name"}},
		"order":                {"input/order", "gbr", []string{"/input/order"}},
		"width negative":       {"input/width", -1, []string{"/input/width", "/input/width", "/alignment/0", "/alignment/1", "/alignment/2", "/alignment/3", "/alignment/4"}},
		"width huge":           {"input/width", 1 << 20, []string{"/input/width"}},
		"width free":           {"input/width", 0, []string{"/input/height", "/input/multiple", "/input/width", "/alignment/0", "/alignment/1", "/alignment/2", "/alignment/3", "/alignment/4"}},
		"multiple of a fixed":  {"input/multiple", 32, []string{"/input/multiple"}},
		"scale missing":        {"input/scale", nil, []string{"/input/scale/0", "/input/scale/1", "/input/scale/2"}},
		"no outputs":           {"outputs", []any{}, []string{"/outputs"}},
		"output without shape": {"outputs", []any{object{"name": "out"}}, []string{"/outputs/0/shape"}},
		"output size 0":        {"outputs", []any{object{"name": "out", "shape": []int{0, 4}}}, []string{"/outputs/0/shape/0"}},
		"output twice": {
			"outputs",
			[]any{object{"name": "out", "shape": []int{1, 4}}, object{"name": "out", "shape": []int{1}}},
			[]string{"/outputs/1/name"},
		},
		"dimension":             {"dimension", 5, []string{"/dimension"}},
		"dimension missing":     {"dimension", nil, []string{"/dimension", "/dimension"}},
		"decoder":               {"decoder", "yunet", []string{"/decoder"}},
		"threshold":             {"threshold", 0.5, []string{"/threshold"}},
		"four points":           {"alignment", [][]int{{1, 1}, {2, 2}, {3, 3}, {4, 4}}, []string{"/alignment"}},
		"a point outside":       {"alignment", [][]int{{1, 1}, {2, 2}, {3, 113}, {4, 4}, {5, 5}}, []string{"/alignment/2"}},
		"calibrated":            {"calibration", calibration([]any{point("fmr_1e-2", 1e-2, .3), point("fmr_1e-3", 1e-3, .4)}, []any{at(0, 1), at(.3, .01)}), nil},
		"point with interval":   {"calibration", calibration([]any{object{"name": "fmr_1e-2", "fmr": 1e-2, "threshold": .3, "interval": object{"low": .005, "high": .02}}}, nil), nil},
		"interval backwards":    {"calibration", calibration([]any{object{"name": "fmr_1e-2", "fmr": 1e-2, "threshold": .3, "interval": object{"low": .02, "high": .005}}}, nil), []string{"/calibration/points/0/interval"}},
		"head":                  {"head", head("", nil), nil},
		"head of no source":     {"head", head("source", ""), []string{"/head/source"}},
		"head of other kind":    {"head", head("variant", "deep"), []string{"/head/variant"}},
		"head lacks weights":    {"head", head("variant", "absolute"), []string{"/head/weights"}},
		"head turned round":     {"head", head("weights", []any{-4.5}), []string{"/head/weights/0"}},
		"head of other prior":   {"head", head("prior", 0.1), []string{"/head/prior"}},
		"head falling":          {"head", head("platt", object{"slope": -1, "offset": 0}), []string{"/head/platt/slope"}},
		"head of nobody":        {"head", head("trained", object{"people": 9, "mated": 0, "impostor": 5}), []string{"/head/trained"}},
		"head not measured":     {"head", head("held_out", object{"accuracy": 1.5}), []string{"/head/held_out", "/head/held_out/accuracy"}},
		"calibration source":    {"calibration", object{"comparisons": 1}, []string{"/calibration/source"}},
		"calibration of none":   {"calibration", object{"source": "x"}, []string{"/calibration/comparisons"}},
		"points out of order":   {"calibration", calibration([]any{point("fmr_1e-3", 1e-3, .4), point("fmr_1e-2", 1e-2, .3)}, nil), []string{"/calibration/points/1"}},
		"point without fmr":     {"calibration", calibration([]any{object{"name": "fmr_0", "threshold": .3}}, nil), []string{"/calibration/points/0/fmr"}},
		"point without name":    {"calibration", calibration([]any{point("", .1, .3)}, nil), []string{"/calibration/points/0/name"}},
		"point of a bare name":  {"calibration", calibration([]any{point("1e-1", .1, .3)}, nil), []string{"/calibration/points/0/name"}},
		"point of other name":   {"calibration", calibration([]any{point("fmr_1e-6", 1e-2, .3)}, nil), []string{"/calibration/points/0/name"}},
		"point of no threshold": {"calibration", calibration([]any{object{"name": "fmr_1e-4", "fmr": 1e-4}}, nil), []string{"/calibration/points/0/threshold"}},
		"curve out of order":    {"calibration", calibration(nil, []any{at(.3, .01), at(0, 1)}), []string{"/calibration/curve/1"}},
		"curve over 1":          {"calibration", calibration(nil, []any{at(.3, 2)}), []string{"/calibration/curve/0/fmr"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := embed.ParseManifest(encoded(t, with(manifest("m"), c.field, c.value)))
			var got []string
			if e, ok := errors.AsType[*face.Error](err); ok {
				for _, f := range e.Fields {
					got = append(got, f.Pointer)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("fields (-want +got):\n%s\n%v", diff, err)
			}
			if err != nil {
				wantRefused(t, err, face.Invalid)
			}
		})
	}
}

func TestParseManifestDetector(t *testing.T) {
	t.Parallel()
	detector := func() object {
		o := manifest("d")
		for _, k := range []string{"dimension", "alignment"} {
			delete(o, k)
		}
		with(with(with(o, "task", "detector"), "decoder", "yunet"), "threshold", 0.5)
		var outputs []any
		for _, out := range detectorModel().Outputs {
			outputs = append(outputs, object{"name": out.Name, "shape": []int{-1, -1, 1}})
		}
		o["outputs"] = outputs
		return with(with(with(o, "input/width", 0), "input/height", 0), "input/multiple", 32)
	}
	if _, err := embed.ParseManifest(encoded(t, detector())); err != nil {
		t.Error(err)
	}
	for field, value := range map[string]any{
		"decoder": "oracle", "threshold": 1, "dimension": 4, "input/multiple": 0, "scores": "logit", "quality_threshold": 0.4,
		"outputs":   manifest("m")["outputs"],
		"alignment": manifest("m")["alignment"], "calibration": object{}, "cohort": object{"people": 9, "top": 2},
	} {
		_, err := embed.ParseManifest(encoded(t, with(detector(), field, value)))
		wantRefused(t, err, face.Invalid, "/"+field)
	}
}

func TestParseManifestStrict(t *testing.T) {
	t.Parallel()
	good := string(encoded(t, manifest("m")))
	for name, c := range map[string]struct{ text, word string }{
		"empty":         {"", "EOF"},
		"text":          {"model", "invalid character"},
		"null":          {"null", "/id"},
		"list":          {"[]", "array"},
		"truncated":     {good[:len(good)-1], "EOF"},
		"two":           {good + good, "follows"},
		"unknown field": {strings.Replace(good, `"task"`, `"chore":1,"task"`, 1), "chore"},
		"unknown inner": {strings.Replace(good, `"order"`, `"border":1,"order"`, 1), "border"},
		"wrong type":    {strings.Replace(good, `"size":7`, `"size":"7"`, 1), "size"},
		"float too big": {strings.Replace(good, `[0,0,0]`, `[1e99,0,0]`, 1), "1e99"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := embed.ParseManifest([]byte(c.text))
			wantRefused(t, err, face.Invalid, c.word)
		})
	}
}

func TestOpenRegistry(t *testing.T) {
	t.Parallel()
	first := folder(t, map[string]any{"own.json": manifest("own"), "b.onnx": weights, "notes.txt": []byte("text")})
	second := folder(t, map[string]any{"a.onnx": weights, "b.onnx": weights, "own.onnx": weights})
	r, err := embed.OpenRegistry(builtin(t, "c", "b", "a"), first, second, first+"/")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	var ids []string
	for _, m := range r.Models() {
		got[m.ID] = m.Path
		ids = append(ids, m.ID)
	}
	if diff := cmp.Diff([]string{"a", "b", "c", "own"}, ids); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
	want := map[string]string{
		"a": filepath.Join(second, "a.onnx"), "b": filepath.Join(first, "b.onnx"), "c": "", "own": filepath.Join(second, "own.onnx"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}

	_, err = r.Model("d")
	wantRefused(t, err, face.NotFound, `"d"`, "a, b, c, own")
	r.Models()[0].ID = "changed"
	if _, err := r.Model("a"); err != nil {
		t.Errorf("a caller changed the registry: %v", err)
	}
}

func TestOpenRegistryBesideItsManifest(t *testing.T) {
	t.Parallel()
	first := folder(t, map[string]any{"own.onnx": weights})
	second := folder(t, map[string]any{"own.onnx": weights, "own.json": manifest("own")})
	r, err := embed.OpenRegistry(builtin(t), first, second)
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Model("own")
	if err != nil || m.Path != filepath.Join(second, "own.onnx") {
		t.Errorf("path %s, want the one beside the manifest: %v", m.Path, err)
	}
}

func TestOpenRegistryRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		dirs  []string
		words []string
	}{
		"no such folder":   {[]string{filepath.Join(t.TempDir(), "none")}, []string{"none"}},
		"broken manifest":  {[]string{folder(t, map[string]any{"x.json": []byte("{")})}, []string{"x.json"}},
		"broken rule":      {[]string{folder(t, map[string]any{"x.json": with(manifest("x"), "size", 0)})}, []string{"x.json", "/size"}},
		"name is not id":   {[]string{folder(t, map[string]any{"x.json": manifest("y")})}, []string{"x.json", `"y"`, `"x"`}},
		"far too long":     {[]string{folder(t, map[string]any{"x.json": bytes.Repeat([]byte(" "), 1<<20+1)})}, []string{"x.json", "1048576"}},
		"same in two":      {[]string{folder(t, map[string]any{"x.json": manifest("x")}), folder(t, map[string]any{"x.json": manifest("x")})}, []string{"x.json"}},
		"other weights":    {[]string{folder(t, map[string]any{"a.json": with(manifest("a"), "sha256", strings.Repeat("0", 64))})}, []string{"a.json", "another id"}},
		"other input":      {[]string{folder(t, map[string]any{"a.json": with(manifest("a"), "input/order", "bgr")})}, []string{"a.json", "another id"}},
		"other alignment":  {[]string{folder(t, map[string]any{"a.json": with(manifest("a"), "alignment", [][]int{{1, 1}, {2, 2}, {3, 3}, {4, 4}, {5, 5}})})}, []string{"a.json", "another id"}},
		"unreadable entry": {[]string{folder(t, map[string]any{"x.onnx": weights}), brokenLink(t)}, []string{"x.json"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := embed.OpenRegistry(builtin(t, "a"), c.dirs...)
			wantRefused(t, err, face.Invalid, c.words...)
		})
	}
}

// A folder's manifest of a built-in model replaces its calibration and its head,
// and keeps those that it says nothing about.
func TestOpenRegistryKeepsCalibration(t *testing.T) {
	t.Parallel()
	calibration := func(source string) object { return object{"source": source, "comparisons": 10} }
	carried := fstest.MapFS{"a.json": {Data: encoded(t, with(manifest("a"), "calibration", calibration("built in")))}}
	for _, tt := range []struct {
		own  any
		want string
	}{{nil, "built in"}, {calibration("own"), "own"}} {
		dir := folder(t, map[string]any{"a.json": with(manifest("a"), "calibration", tt.own), "a.onnx": weights})
		r, err := embed.OpenRegistry(carried, dir)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := r.Model("a"); err != nil || m.Calibration == nil || m.Calibration.Source != tt.want {
			t.Errorf("calibration %+v, want that of %q: %v", m.Calibration, tt.want, err)
		}
	}
}

// brokenLink is a folder with a manifest that leads nowhere.
func brokenLink(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink("nowhere", filepath.Join(dir, "x.json")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A folder may calibrate a built-in model.
func TestOpenRegistryCalibrated(t *testing.T) {
	t.Parallel()
	own := with(manifest("a"), "calibration", object{"source": "a test", "comparisons": 5, "points": []any{}, "curve": []any{}})
	r, err := embed.OpenRegistry(builtin(t, "a"), folder(t, map[string]any{"a.json": own}))
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Model("a")
	if err != nil || m.Calibration == nil || m.Calibration.Comparisons != 5 {
		t.Errorf("calibration %v, %v", m.Calibration, err)
	}
}

// A file that is built in needs no folder, is checked like any other, and is
// not put aside by what a folder has.
func TestOpenRegistryBuiltIn(t *testing.T) {
	t.Parallel()
	carried := builtin(t, "a", "b", "broken")
	carried["a.onnx"] = &fstest.MapFile{Data: weights}
	carried["broken.onnx"] = &fstest.MapFile{Data: []byte("WEIGHTS")}
	own := with(with(manifest("a"), "file", "mine.onnx"), "calibration", object{"source": "a test", "comparisons": 5, "points": []any{}, "curve": []any{}})
	dir := folder(t, map[string]any{"a.json": own, "a.onnx": []byte("else"), "mine.onnx": []byte("else"), "b.onnx": weights})
	for name, dirs := range map[string][]string{"alone": nil, "with a folder": {dir}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := embed.OpenRegistry(carried, dirs...)
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range []string{"a", "b", "broken"} {
				m, err := r.Model(id)
				if err != nil {
					t.Fatal(err)
				}
				data, err := m.ReadVerified()
				switch {
				case m.BuiltIn() != (id != "b"):
					t.Errorf("%s is built in: %v", id, m.BuiltIn())
				case id == "broken":
					wantRefused(t, err, face.Invalid, "SHA-256")
				case id == "b" && dirs == nil:
					wantRefused(t, err, face.NotFound, "LIKENESS_MODELS_DIR")
				case err != nil || !bytes.Equal(data, weights):
					t.Errorf("%s: %q, %v", id, data, err)
				}
				if id == "a" && (m.Calibration != nil) != (dirs != nil) {
					t.Errorf("calibration %v", m.Calibration)
				}
			}
		})
	}
}

func TestReadVerified(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file  []byte // nil: none
		url   string
		kind  face.Kind
		words []string
	}{
		"good":         {file: weights},
		"longer":       {file: append([]byte("x"), weights...), kind: face.Invalid, words: []string{"8 bytes", "says 7"}},
		"other bytes":  {file: []byte("WEIGHTS"), kind: face.Invalid, words: []string{"SHA-256"}},
		"none":         {kind: face.NotFound, words: []string{"a.onnx", "LIKENESS_MODELS_DIR", "a test"}},
		"none to pull": {url: "https://example.com/a.onnx", kind: face.NotFound, words: []string{"likeness models pull a"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]any{"a.json": with(manifest("a"), "url", c.url)}
			if c.file != nil {
				files["a.onnx"] = c.file
			}
			r, err := embed.OpenRegistry(builtin(t), folder(t, files))
			if err != nil {
				t.Fatal(err)
			}
			m, err := r.Model("a")
			if err != nil {
				t.Fatal(err)
			}
			data, err := m.ReadVerified()
			if c.words != nil {
				wantRefused(t, err, c.kind, c.words...)
			} else if err != nil || !bytes.Equal(data, weights) {
				t.Errorf("%q, %v", data, err)
			}
		})
	}
}

// The manifests keep the rules, and those whose files are at hand tell the
// truth about them.
func TestManifests(t *testing.T) {
	t.Parallel()
	r, err := embed.OpenRegistry(models.FS, sharedtest.Path(t, "models"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.Models() {
		if m.Path == "" {
			continue
		}
		if _, err := m.ReadVerified(); err != nil {
			t.Error(err)
		}
	}
}

// What the programs carry is four models, no larger than promised, each what
// its manifest says. The encoder can decide at once.
func TestBuiltIn(t *testing.T) {
	t.Parallel()
	most := map[string]int64{"builtin-detector": 400 << 10, "builtin-encoder": 4 << 20, "builtin-encoder-2": 6 << 20, "builtin-features": 3 << 20, "builtin-quality": 400 << 10}
	r, err := embed.OpenRegistry(models.FS)
	if err != nil {
		t.Fatal(err)
	}
	files, err := fs.Glob(models.FS, "*.onnx")
	if err != nil || len(files) != len(most) {
		t.Errorf("the programs carry %q, %v", files, err)
	}
	for _, m := range r.Models() {
		if !m.BuiltIn() {
			continue
		}
		data, err := m.ReadVerified()
		if err != nil || int64(len(data)) > most[m.ID] || m.File != m.ID+".onnx" {
			t.Errorf("%s in %s: %d bytes of %d, %v", m.ID, m.File, len(data), most[m.ID], err)
		}
		if m.Task == embed.TaskEncoder && (m.Head == nil || m.Calibration == nil || len(m.Calibration.Points) < 3) {
			t.Errorf("%s has no operating points from fmr_1e-2 to fmr_1e-4, or no head", m.ID)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	names, err := fs.Glob(models.FS, "*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		data, err := models.FS.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, s := range []string{"", "null", "{}", `{"input":{"width":1e9}}`, `{"outputs":[{"shape":[]}]}`, `{"calibration":{"points":[{}]}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := embed.ParseManifest(data)
		if err != nil {
			if face.KindOf(err) != face.Invalid {
				t.Fatalf("kind of %v", err)
			}
			return
		}
		// A good manifest stays the same when it is written and read again.
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := embed.ParseManifest(b)
		if err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		c, err := json.Marshal(again)
		if err != nil || !bytes.Equal(b, c) {
			t.Fatalf("%s became %s: %v", b, c, err)
		}
	})
}
