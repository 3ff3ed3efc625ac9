package embed

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/likeness-id/likeness/pkg/face"
)

// Bounds of the numbers in a manifest, so that a mistyped number does not
// allocate gigabytes.
const (
	maxManifestBytes = 1 << 20
	maxModelBytes    = 2 << 30
	maxInputSide     = 8192
	maxDimension     = 4096 // what the index takes
)

// Registry holds the models that are known: the built-in ones and those of the
// models folders. It does not change after it was read.
type Registry struct {
	models []Model // sorted by id
}

// Model is a manifest with the path of its file.
type Model struct {
	Manifest
	Path string // of the file; empty when neither the program nor a folder has it

	builtin fs.FS // what Path is in; nil: the disk
}

// BuiltIn reports whether the program itself carries the model's file.
func (m Model) BuiltIn() bool { return m.builtin != nil }

// OpenRegistry reads every <id>.json in the root of builtin and in the
// folders, and looks for each model's file by its base name: beside a built-in
// manifest, beside its manifest in a folder, then in the folders in their order.
//
// A folder may hold a manifest with the id of a built-in one, to add a
// calibration or other thresholds. Everything else that the pipeline uses must be
// the same, because templates carry the id and vectors of two models must not be
// compared. A calibration or a head that it leaves out is the built-in one. The
// built-in file is still the one that is read. Two folders may not hold the same
// id.
//
// A missing folder, a file that is no manifest, and a manifest that breaks a rule
// are Invalid; the error names the file and the fields.
func OpenRegistry(builtin fs.FS, dirs ...string) (*Registry, error) {
	const op = "embed.OpenRegistry"
	carried, err := readManifests(builtin)
	if err != nil {
		return nil, face.Wrap(face.Invalid, op, fmt.Errorf("built-in manifests: %w", err))
	}
	known := maps.Clone(carried)
	beside := map[string]string{} // id -> folder of its manifest
	var folders []string
	for _, dir := range dirs {
		dir = filepath.Clean(dir)
		if slices.Contains(folders, dir) {
			continue
		}
		folders = append(folders, dir)
		found, err := readManifests(os.DirFS(dir))
		if err != nil {
			return nil, face.Wrap(face.Invalid, op, fmt.Errorf("models folder %s: %w", dir, err))
		}
		for id, m := range found {
			if other, ok := beside[id]; ok {
				return nil, face.Errorf(face.Invalid, op, "%s.json is both in %s and in %s", id, other, dir)
			}
			if old, ok := known[id]; ok {
				if !sameContract(old, m) {
					return nil, face.Errorf(face.Invalid, op,
						"%s.json in %s is not the built-in model %s: give it another id, since templates of different models must not share one",
						id, dir, id)
				}
				m.Calibration, m.Head = cmp.Or(m.Calibration, old.Calibration), cmp.Or(m.Head, old.Head)
			}
			beside[id], known[id] = dir, m
		}
	}

	r := &Registry{models: make([]Model, 0, len(known))}
	for id, m := range known {
		if own, ok := carried[id]; ok && isFile(builtin, own.File) {
			r.models = append(r.models, Model{Manifest: m, Path: own.File, builtin: builtin})
			continue
		}
		places := folders
		if dir, ok := beside[id]; ok {
			places = append([]string{dir}, folders...)
		}
		r.models = append(r.models, Model{Manifest: m, Path: findFile(places, m.File)})
	}
	slices.SortFunc(r.models, func(a, b Model) int { return strings.Compare(a.ID, b.ID) })
	return r, nil
}

// readManifests reads the manifests in the root of fsys, by id.
func readManifests(fsys fs.FS) (map[string]Manifest, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, err
	}
	out := map[string]Manifest{}
	for _, e := range entries {
		id, isJSON := strings.CutSuffix(e.Name(), ".json")
		if !isJSON || e.IsDir() {
			continue
		}
		data, err := readBounded(fsys, e.Name(), maxManifestBytes)
		if err != nil {
			return nil, err
		}
		m, err := ParseManifest(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		if m.ID != id {
			return nil, fmt.Errorf("%s: /id: is %q, but the file's name says %q", e.Name(), m.ID, id)
		}
		out[id] = m
	}
	return out, nil
}

// readBounded reads a whole file that holds no more than limit bytes.
func readBounded(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: over %d bytes", name, limit)
	}
	return data, err
}

// sameContract reports whether two manifests describe the same computation. The
// texts, the URL, the thresholds, the calibration and the head may differ.
//
// The built-in manifest of a model that is cut has no hash: any file that was cut
// from the same original is that model.
func sameContract(a, b Manifest) bool {
	if a.Cut != nil && a.SHA256 == "" {
		a.SHA256, a.Size = b.SHA256, b.Size
	}
	bare := func(m Manifest) Manifest {
		return Manifest{
			Task: m.Task, SHA256: m.SHA256, Size: m.Size, Input: m.Input, Outputs: m.Outputs,
			Decoder: m.Decoder, Scores: m.Scores, Dimension: m.Dimension, Alignment: m.Alignment, Cut: m.Cut, Classes: m.Classes, Cohort: m.Cohort,
		}
	}
	return reflect.DeepEqual(bare(a), bare(b))
}

// findFile is the path of the first regular file of that name, or empty.
func findFile(dirs []string, name string) string {
	for _, dir := range dirs {
		if isFile(os.DirFS(dir), name) {
			return filepath.Join(dir, name)
		}
	}
	return ""
}

// isFile reports whether fsys has a regular file of that name.
func isFile(fsys fs.FS, name string) bool {
	info, err := fs.Stat(fsys, name)
	return err == nil && info.Mode().IsRegular()
}

// Models lists every model by id, also those whose file is not there.
func (r *Registry) Models() []Model { return slices.Clone(r.models) }

// Model returns one model. An unknown id is NotFound, and the detail lists
// the ids that are known.
func (r *Registry) Model(id string) (Model, error) {
	known := make([]string, len(r.models))
	for i, m := range r.models {
		if m.ID == id {
			return m, nil
		}
		known[i] = m.ID
	}
	return Model{}, face.Errorf(face.NotFound, "embed.Model",
		"no model %q; known are %s", id, strings.Join(known, ", "))
}

// ReadVerified reads the model's file and checks its size and its SHA-256. A
// missing file is NotFound, and the detail says how to get it. A file that
// contradicts the manifest is Invalid.
func (m Model) ReadVerified() ([]byte, error) {
	const op = "embed.ReadVerified"
	if m.Path == "" {
		how := "its source is " + m.Source
		if m.CanBePulled() {
			how = "`likeness models pull " + m.ID + "` gets it"
		}
		return nil, face.Errorf(face.NotFound, op,
			"model %s: no models folder (LIKENESS_MODELS_DIR) has %s; %s", m.ID, m.File, how)
	}
	if m.SHA256 == "" {
		return nil, face.Errorf(face.Invalid, op,
			"model %s: there is %s, but no manifest with its hash; `likeness models pull %s` writes both", m.ID, m.File, m.ID)
	}
	f, err := m.open()
	if err != nil {
		return nil, face.Wrap(face.Internal, op, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, face.Wrap(face.Internal, op, err)
	}
	if info.Size() != m.Size {
		return nil, face.Errorf(face.Invalid, op,
			"model %s: %s has %d bytes, its manifest says %d", m.ID, m.File, info.Size(), m.Size)
	}
	data := make([]byte, m.Size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, face.Wrap(face.Internal, op, fmt.Errorf("%s: %w", m.File, err))
	}
	sum := sha256.Sum256(data)
	if got := hex.EncodeToString(sum[:]); got != m.SHA256 {
		return nil, face.Errorf(face.Invalid, op,
			"model %s: %s has SHA-256 %s, its manifest says %s", m.ID, m.File, got, m.SHA256)
	}
	return data, nil
}

func (m Model) open() (fs.File, error) {
	if m.BuiltIn() {
		return m.builtin.Open(m.Path)
	}
	return os.Open(m.Path)
}

// ParseManifest reads one manifest: one JSON object with known fields only. The
// error is Invalid and lists every field that breaks a rule.
func ParseManifest(data []byte) (Manifest, error) {
	const op = "embed.ParseManifest"
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return Manifest{}, face.Errorf(face.Invalid, op, "not a manifest: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Manifest{}, face.Errorf(face.Invalid, op, "not a manifest: something follows the JSON object")
	}
	var r rules
	r.manifest(&m)
	if len(r) > 0 {
		return Manifest{}, &face.Error{Kind: face.Invalid, Op: op, Detail: "manifest breaks the rules", Fields: r}
	}
	return m, nil
}

// rules collects the rules that a manifest breaks.
type rules []face.FieldError

// want adds what a field must be, unless ok.
func (r *rules) want(ok bool, pointer, format string, args ...any) {
	if !ok {
		*r = append(*r, face.FieldError{Pointer: pointer, Detail: fmt.Sprintf("must be "+format, args...)})
	}
}

func (r *rules) manifest(m *Manifest) {
	r.want(face.ValidID(m.ID), "/id", "1 to 128 letters, digits and ._@-")
	r.want(m.File != "" && m.File == filepath.Base(m.File) && m.File != "." && m.File != ".." && !strings.ContainsAny(m.File, `/\`),
		"/file", "a file's name without a folder")
	if m.Cut == nil || m.SHA256 != "" || m.Size != 0 {
		r.file(m.SHA256, m.Size, "")
	}
	r.want(m.License != "", "/license", "given")
	r.want(m.Source != "", "/source", "given")
	r.want(m.TrainingData != "", "/training_data", "given; say so when it is not known")
	r.want(m.URL == "" || isHTTPS(m.URL), "/url", "an https address")
	if m.Published != nil {
		r.want(m.URL == "" && m.Cut == nil, "/published", "left out where there is a url")
		r.published(m.Published)
	}
	r.input(m)
	r.outputs(m.Outputs)
	switch m.Task {
	case TaskDetector:
		r.detector(m)
	case TaskEncoder:
		r.encoder(m)
	case TaskFeatures:
		r.features(m)
	case TaskQuality:
		r.quality(m)
	default:
		r.want(false, "/task", "%q, %q, %q or %q", TaskDetector, TaskEncoder, TaskFeatures, TaskQuality)
	}
	if m.Task != TaskDetector {
		r.want(m.Scores == "", "/scores", "left out of a model for another task")
		r.want(m.QualityThreshold == 0, "/quality_threshold", "left out of a model for another task")
	}
	if m.Task != TaskQuality {
		r.want(m.Classes == nil, "/classes", "left out of a model for another task")
	}
	if m.Task != TaskEncoder {
		r.want(m.Cohort == nil, "/cohort", "left out of a model for another task")
	}
	if m.Task != TaskFeatures {
		r.want(m.Features == nil, "/features", "left out of a model for another task")
		r.want(m.Cut == nil, "/cut", "left out of a model for another task")
	}
}

// isHTTPS reports whether an address is one to pull from.
func isHTTPS(address string) bool { return strings.HasPrefix(address, "https://") }

// file checks the hash and the size below a pointer.
func (r *rules) file(sha string, size int64, pointer string) {
	r.hash(sha, sha256.Size, pointer+"/sha256")
	r.want(size > 0 && size <= maxModelBytes, pointer+"/size", "1 to %d", maxModelBytes)
}

// hash checks a hash of so many bytes.
func (r *rules) hash(sum string, bytes int, pointer string) {
	b, err := hex.DecodeString(sum)
	r.want(err == nil && len(b) == bytes && strings.ToLower(sum) == sum, pointer, "%d lower-case hex digits", 2*bytes)
}

func (r *rules) published(p *Published) {
	const at = "/published"
	r.want(p.Format == FormatOpenVINO, at+"/format", "%q", FormatOpenVINO)
	r.want(len(p.Files) == 2, at+"/files", "two: the graph (.xml) and the weights (.bin)")
	for i, f := range p.Files {
		here := fmt.Sprintf("%s/files/%d", at, i)
		r.want(isHTTPS(f.URL), here+"/url", "an https address")
		r.hash(f.SHA384, sha512.Size384, here+"/sha384")
		r.want(f.Size > 0 && f.Size <= maxModelBytes, here+"/size", "1 to %d", maxModelBytes)
	}
}

func (r *rules) input(m *Manifest) {
	in := m.Input
	r.want(in.Name != "", "/input/name", "given")
	r.want(in.Order == "rgb" || in.Order == "bgr", "/input/order", `"rgb" or "bgr"`)
	r.want(in.Width >= 0 && in.Width <= maxInputSide, "/input/width", "0 to %d", maxInputSide)
	r.want(in.Height >= 0 && in.Height <= maxInputSide, "/input/height", "0 to %d", maxInputSide)
	r.want((in.Width == 0) == (in.Height == 0), "/input/height", "0 when and only when the width is")
	if in.Width == 0 {
		r.want(in.Multiple > 0 && in.Multiple <= maxInputSide, "/input/multiple", "1 to %d where the size is free", maxInputSide)
	} else {
		r.want(in.Multiple == 0, "/input/multiple", "left out where the size is fixed")
	}
	for i := range in.Scale {
		r.want(in.Scale[i] != 0, fmt.Sprintf("/input/scale/%d", i), "other than 0")
	}
}

func (r *rules) outputs(outputs []Output) {
	r.want(len(outputs) > 0, "/outputs", "one or more")
	for i, o := range outputs {
		at := fmt.Sprintf("/outputs/%d", i)
		r.want(o.Name != "", at+"/name", "given")
		r.want(!slices.ContainsFunc(outputs[:i], func(p Output) bool { return p.Name == o.Name }), at+"/name", "the only one of its name")
		r.want(len(o.Shape) > 0, at+"/shape", "one or more sizes")
		for j, n := range o.Shape {
			r.want(n == -1 || n > 0, fmt.Sprintf("%s/shape/%d", at, j), "-1 or above 0")
		}
	}
}

func (r *rules) detector(m *Manifest) {
	if family, known := decoders()[m.Decoder]; !known {
		r.want(false, "/decoder", "%s", decoderNames())
	} else if _, err := family(*m); err != nil {
		*r = append(*r, face.FieldError{Pointer: "/outputs", Detail: fmt.Sprintf("do not fit decoder %q: %v", m.Decoder, err)})
	}
	r.want(m.Scores == "" || m.Decoder == "scrfd" && (m.Scores == scoresProbability || m.Scores == scoresLogit),
		"/scores", `%q or %q with decoder "scrfd", else left out`, scoresProbability, scoresLogit)
	r.want(m.Threshold > 0 && m.Threshold < 1, "/threshold", "between 0 and 1")
	r.want(m.QualityThreshold == 0 || m.QualityThreshold >= m.Threshold && m.QualityThreshold < 1,
		"/quality_threshold", "from the threshold to 1, or left out")
	r.want(m.Dimension == 0, "/dimension", "left out of a detector")
	r.want(m.Alignment == nil, "/alignment", "left out of a detector")
	r.want(m.Calibration == nil, "/calibration", "left out of a detector")
	r.want(m.Head == nil, "/head", "left out of a detector")
}

func (r *rules) encoder(m *Manifest) {
	r.want(m.Decoder == "", "/decoder", "left out of an encoder")
	r.want(m.Threshold == 0, "/threshold", "left out of an encoder")
	r.want(m.Input.Width > 0 && m.Input.Height > 0, "/input/width", "fixed in an encoder")
	r.want(m.Dimension > 0 && m.Dimension <= maxDimension, "/dimension", "1 to %d", maxDimension)
	if len(m.Outputs) > 0 && len(m.Outputs[0].Shape) > 0 {
		shape := m.Outputs[0].Shape
		r.want(shape[len(shape)-1] == int64(m.Dimension), "/dimension", "the last size of the first output")
	}
	r.alignment(m)
	if m.Calibration != nil {
		r.calibration(m.Calibration)
	}
	if m.Head != nil {
		r.head(m.Head, m.Dimension)
	}
	if m.Cohort != nil {
		r.want(m.Cohort.Top > 0 && m.Cohort.Top <= m.Cohort.People, "/cohort/top", "1 to /cohort/people")
	}
}

func (r *rules) alignment(m *Manifest) {
	r.want(len(m.Alignment) == 5, "/alignment", "five points")
	for i, p := range m.Alignment {
		r.want(p[0] > 0 && p[0] < float32(m.Input.Width) && p[1] > 0 && p[1] < float32(m.Input.Height),
			fmt.Sprintf("/alignment/%d", i), "inside the input")
	}
}

func (r *rules) quality(m *Manifest) {
	r.want(m.Decoder == "", "/decoder", "left out of a quality model")
	r.want(m.Dimension == 0, "/dimension", "left out of a quality model")
	r.want(m.Calibration == nil, "/calibration", "left out of a quality model")
	r.want(m.Head == nil, "/head", "left out of a quality model")
	r.want(m.Threshold > 0 && m.Threshold < 1, "/threshold", "between 0 and 1")
	r.want(m.Input.Width > 0 && m.Input.Height > 0, "/input/width", "fixed in a quality model")
	r.alignment(m)
	r.want(len(m.Classes) >= 2, "/classes", "two or more")
	for i, c := range m.Classes {
		r.want((c == "") == (i == 0), fmt.Sprintf("/classes/%d", i), "a reason, but for the first, which is empty")
	}
	if len(m.Outputs) > 0 && len(m.Outputs[0].Shape) > 0 {
		shape := m.Outputs[0].Shape
		r.want(shape[len(shape)-1] == int64(len(m.Classes)), "/classes", "as many as the last size of the first output")
	}
}

func (r *rules) features(m *Manifest) {
	r.want(m.Decoder == "", "/decoder", "left out of features")
	r.want(m.Threshold == 0, "/threshold", "left out of features")
	r.want(m.Dimension == 0, "/dimension", "left out of features")
	r.want(m.Alignment == nil, "/alignment", "left out of features")
	r.want(m.Calibration == nil, "/calibration", "left out of features")
	r.want(m.Input.Width == 0, "/input/width", "0 in features: any size")
	if m.Cut != nil {
		r.file(m.Cut.SHA256, m.Cut.Size, "/cut")
		r.want(m.URL != "", "/url", "given where a model is cut")
	}
	f := m.Features
	if f == nil {
		r.want(false, "/features", "given")
		return
	}
	for field, layers := range map[string]map[string]float64{"content": f.Content, "style": f.Style} {
		r.want(len(layers) > 0, "/features/"+field, "one or more layers")
		for name, w := range layers {
			r.want(name != "" && w > 0, "/features/"+field+"/"+name, "above 0, and named")
		}
	}
	r.want(f.ContentWeight > 0, "/features/content_weight", "above 0")
	r.want(f.StyleWeight > 0, "/features/style_weight", "above 0")
	r.want(f.TVWeight >= 0, "/features/tv_weight", "0 or more")
	r.want(f.Tile == 0 || f.Tile >= 256 && f.Tile <= maxInputSide, "/features/tile", "0, or 256 to %d", maxInputSide)
}

func (r *rules) calibration(c *face.Calibration) {
	const at = "/calibration"
	r.want(c.Source != "", at+"/source", "given")
	r.want(c.Comparisons > 0, at+"/comparisons", "above 0")
	for i, p := range c.Points {
		here := fmt.Sprintf("%s/points/%d", at, i)
		rate, err := strconv.ParseFloat(strings.TrimPrefix(p.Name, "fmr_"), 64)
		r.want(err == nil && rate == p.FMR && strings.HasPrefix(p.Name, "fmr_"), here+"/name", `"fmr_" and the FMR, as in "fmr_1e-4"`)
		r.want(p.FMR > 0 && p.FMR < 1, here+"/fmr", "between 0 and 1")
		// Where it is left out it is 0, which half of all strangers reach.
		r.want(p.Threshold > 0, here+"/threshold", "above 0")
		r.want(p.Interval.Low >= 0 && p.Interval.Low <= p.Interval.High && p.Interval.High <= 1, here+"/interval", "from low to high, 0 to 1")
		if i > 0 {
			r.want(p.FMR < c.Points[i-1].FMR && p.Threshold >= c.Points[i-1].Threshold, here, "stricter than the point before it")
		}
	}
	for i, p := range c.Curve {
		here := fmt.Sprintf("%s/curve/%d", at, i)
		r.want(p.FMR >= 0 && p.FMR <= 1, here+"/fmr", "0 to 1")
		if i > 0 {
			r.want(p.Score > c.Curve[i-1].Score && p.FMR <= c.Curve[i-1].FMR, here, "at a higher score and no higher FMR than the one before it")
		}
	}
}

func (r *rules) head(h *face.Head, dimension int) {
	const at = "/head"
	n := h.Variant.Features(dimension)
	r.want(h.Source != "", at+"/source", "given")
	r.want(n > 0, at+"/variant", "%q, %q, %q, %q or %q",
		face.HeadCosine, face.HeadAbsolute, face.HeadChiSquared, face.HeadSquared, face.HeadConcatenated)
	r.want(n == 0 || len(h.Weights) == n, at+"/weights", "%d numbers", n)
	// The API promises what an even prior gives.
	r.want(h.Prior == 0.5, at+"/prior", "0.5: as many mated as impostor pairs")
	r.want(h.Platt.Slope > 0, at+"/platt/slope", "above 0, so that more evidence is never less probable")
	if h.Variant == face.HeadCosine && len(h.Weights) == 1 {
		r.want(h.Weights[0] > 0, at+"/weights/0", "above 0, so that a higher score is never less probable")
	}
	for _, c := range []struct {
		pointer string
		face.PairCount
	}{{at + "/trained", h.Trained}, {at + "/held_out", h.HeldOut.PairCount}} {
		r.want(c.People > 1 && c.Mated > 0 && c.Impostor > 0, c.pointer, "people, mated and impostor pairs, some of each")
	}
	r.want(h.HeldOut.Accuracy >= 0 && h.HeldOut.Accuracy <= 1, at+"/held_out/accuracy", "0 to 1")
	r.want(h.HeldOut.ECE >= 0 && h.HeldOut.ECE <= 1, at+"/held_out/expected_calibration_error", "0 to 1")
}
