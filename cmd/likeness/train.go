package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/measure"
	"github.com/likeness-id/likeness/pkg/siamese"
)

type trainCmd struct {
	modelFolders
	Detector   string `default:"builtin-detector" env:"LIKENESS_DETECTOR" placeholder:"ID" help:"Face detector."`
	ORTLibrary string `name:"ort-library" env:"LIKENESS_ORT_LIBRARY" type:"path" placeholder:"FILE" help:"ONNX Runtime's library, if it is not in one of the usual places."`
	Provider   string `default:"cpu" env:"LIKENESS_PROVIDER" placeholder:"NAME" help:"Execution provider of ONNX Runtime."`

	Data []string `required:"" type:"path" placeholder:"TAR|DIR" help:"Photos to learn from. May be repeated. If they are in several folders, each folder is one person. If they are all in one folder, they are not labelled and can be used only with --teacher."`
	Base string   `xor:"begin" required:"" placeholder:"ID" help:"The encoder to adapt."`
	From string   `xor:"begin" required:"" enum:"plain,mobile,residual,inverted," placeholder:"NAME" help:"Start with random weights instead, in this architecture: plain (3x3 convolutions), mobile (depthwise convolutions) or residual (that of the built-in encoder)."`
	Dim  int      `name:"dimension" default:"128" help:"Length of the embedding of --from, 8..1024."`
	Wide float64  `name:"width" default:"1" help:"Factor for the number of channels of --from, 0.25..4."`
	Run_ string   `name:"run" required:"" type:"path" placeholder:"DIR" help:"Folder of the run: checkpoints, curves, aligned crops. The same command with the same folder continues where it stopped."`
	Out  string   `required:"" type:"path" placeholder:"DIR" help:"Models folder for the trained encoder and its manifest."`
	ID   string   `name:"id" required:"" placeholder:"ID" help:"Id of the new encoder."`

	Teacher []string  `placeholder:"ID" help:"Learn to give the embeddings of this encoder (function matching): it sees the same changed picture. This needs no labels. May be repeated: then their embeddings are put together, and reduced to the dimension of the new encoder."`
	Weights []float64 `name:"teacher-weights" placeholder:"W" help:"How much each --teacher counts (default: all the same)."`
	Hint    []string  `placeholder:"TEACHER=STUDENT" help:"Layer of the first teacher whose feature map a layer of the new encoder learns as well. Give hints in the order of the layers; likeness inspect lists them. May be repeated."`
	Alone   int       `placeholder:"N" help:"For the first N steps, each part between two hints is taught alone, with the teacher's feature map as its input."`
	Batch   int       `default:"64" help:"With --teacher: how many photos are in a batch."`
	Replay  int       `default:"1" help:"With --teacher: how often a changed picture is learnt from. More saves the teachers' time."`

	Loss      string  `enum:"triplet,contrastive" default:"triplet" help:"Loss without a teacher: triplet (FaceNet) or contrastive."`
	Margin    float64 `default:"0.3" help:"How much farther away the negative must be: a squared distance, 0..4, for triplets; a distance for contrastive."`
	Mining    string  `enum:"random,semi-hard,hard,retire" default:"semi-hard" help:"How triplets are chosen: random, semi-hard or hard negatives of the batch; or retire, which uses triplets of the whole set until they are learnt."`
	People    int     `default:"16" help:"How many people are in a batch, without a teacher."`
	Each      int     `default:"3" help:"How many photos of each person are in a batch, without a teacher."`
	Learn     string  `default:"all" placeholder:"all|last:N|head" help:"Which weights are trained: all; last:N, those of the last N convolutions and matrix products; or head, a new linear layer behind the encoder."`
	BatchNorm bool    `help:"Normalise with the statistics of each batch. This is always done with --from; fine-tuning is steadier without it."`

	Steps       int           `default:"2000" help:"Number of steps. The learning rate falls towards the last one."`
	WarmUp      int           `default:"50" help:"Steps over which the learning rate rises."`
	Minutes     float64       `placeholder:"N" help:"Stop after so many minutes. The run can be continued."`
	Rate        float64       `default:"1e-3" help:"Highest learning rate."`
	Optimizer   string        `enum:"adamw,sgd" default:"adamw" help:"adamw, or sgd, which has momentum."`
	WeightDecay float64       `default:"1e-4" help:"Weight decay."`
	MaxNorm     float64       `default:"5" help:"Longest gradient; longer ones are scaled down."`
	Validate    float64       `default:"0.2" help:"Share of the people who are kept out of learning, to measure on: 0..0.9."`
	Every       int           `default:"100" help:"Steps from one measurement to the next."`
	Checkpoint  time.Duration `default:"1m" help:"Time from one checkpoint to the next."`
	Seed        uint64        `default:"1" help:"Seed of everything random."`
	Threads     int           `default:"0" placeholder:"N" help:"Threads (default: one a core)."`
}

// Help is what --help says beside the flags.
func (trainCmd) Help() string {
	return "Every photo's largest face is found and kept as an aligned crop of some 20 KB, in memory and in the run's folder. " +
		"People are learnt from or measured on, never both: which, their name decides. " +
		"Beside the crops it takes about 30 MB for each photo of a batch. The encoder that is written has no operating points: run likeness calibrate with it before it decides anything."
}

// trainingPhoto is a photo of the set.
type trainingPhoto struct {
	Name   string
	Person string // empty: not known
	Crop   []byte
}

// trainSet is the photos that are learnt from.
type trainSet struct {
	all       []trainingPhoto
	person    []int
	alignment [][2]float32
}

func (s *trainSet) Len() int         { return len(s.all) }
func (s *trainSet) Person(i int) int { return s.person[i] }

func (s *trainSet) Photo(i int) (siamese.Photo, error) {
	img, toSrc, err := embed.AlignCrop(s.all[i].Crop, s.alignment)
	return siamese.Photo{Image: img, ToSrc: toSrc}, err
}

// newTrainSet numbers the people.
func newTrainSet(all []trainingPhoto, alignment [][2]float32) *trainSet {
	s := &trainSet{all: all, alignment: alignment}
	number := map[string]int{}
	for _, p := range all {
		if p.Person == "" {
			s.person = append(s.person, -1)
			continue
		}
		if _, known := number[p.Person]; !known {
			number[p.Person] = len(number)
		}
		s.person = append(s.person, number[p.Person])
	}
	return s
}

func (c trainCmd) Run(t *tool) (err error) {
	switch {
	case !(c.Validate >= 0 && c.Validate <= 0.9):
		return usageError{fmt.Errorf("--validate: %g is not within 0..0.9", c.Validate)}
	case c.Every < 1:
		return usageError{fmt.Errorf("--every: %d is not a number of steps", c.Every)}
	case c.ID == c.Base:
		return usageError{fmt.Errorf("--id: %s is the encoder that is adapted; choose another id", c.ID)}
	}
	teachers, err := c.loadTeachers()
	if err != nil {
		return err
	}
	base, model, err := c.loadBase(teachers)
	if err != nil {
		return err
	}
	if _, err := c.describeEncoder(base, nil, 0); err != nil { // fail now rather than after the work
		return usageError{err}
	}
	for _, dir := range []string{c.Run_, c.Out} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	all, err := c.loadCrops(t)
	if err != nil {
		return err
	}
	learn, measure := c.splitByPerson(all)
	set := newTrainSet(learn, base.Alignment)

	// Replicas of one thread each keep the cores busier than one program on all.
	threads := c.threads()
	if len(c.Teacher) > 0 {
		threads = 1
	}
	runtime, err := likeness.OpenBackend(likeness.BackendOptions{Library: c.ORTLibrary, Provider: c.Provider, Threads: threads, Spin: threads > 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, runtime.Close()) }()
	run := &trainRun{trainCmd: c, t: t, base: base, validation: newTrainSet(measure, base.Alignment)}
	if len(c.Teacher) > 0 {
		err = run.distil(runtime, model, teachers, set)
	} else {
		err = run.compare(runtime, model, set)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run.learner.Close()) }()
	if err := run.resume(); err != nil {
		return err
	}
	fmt.Fprintf(t.stderr, "%s; measured on %d photos of people who are not learnt from; %d steps done\n",
		run.learner, len(measure), run.learner.Done())
	if err := run.takeSteps(t.ctx); err != nil {
		return err
	}
	return run.export()
}

// compare makes a learner that compares photos with each other.
func (r *trainRun) compare(backend grad.Backend, model *grad.Model, set *trainSet) error {
	options, err := r.trainerOptions(r.base, model)
	if err != nil {
		return err
	}
	trainer, err := siamese.New(backend, options, set)
	if err != nil {
		return err
	}
	r.learner, r.photos = trainer, options.People*options.PhotosEach
	r.step = func(ctx context.Context) (curvePoint, error) {
		p, err := trainer.Step(ctx)
		return curvePoint{Loss: p.Loss, Active: p.Active, Spread: p.Spread, Rate: p.Rate}, err
	}
	return nil
}

func (c trainCmd) threads() int {
	if c.Threads > 0 {
		return c.Threads
	}
	return runtime.GOMAXPROCS(0)
}

// loadBase returns the encoder to start from and its manifest.
func (c trainCmd) loadBase(teachers []trainTeacher) (embed.Manifest, *grad.Model, error) {
	var manifest embed.Manifest
	var data []byte
	if c.From != "" {
		var err error
		if data, err = siamese.Untrained(c.From, c.Dim, c.Wide, c.Seed); err != nil {
			return manifest, nil, usageError{err}
		}
		side := siamese.Side(c.From)
		manifest = embed.Manifest{
			Task:  embed.TaskEncoder,
			Input: embed.Input{Name: "image", Width: side, Height: side, Order: "rgb", Scale: [3]float32{1, 1, 1}},
			// The usual template of 112 x 112 pixels.
			Alignment: [][2]float32{{38.2946, 51.6963}, {73.5318, 51.5014}, {56.0252, 71.7366}, {41.5493, 92.3655}, {70.7299, 92.2041}},
			Outputs:   []embed.Output{{Name: "embedding", Shape: []int64{1, int64(c.Dim)}}},
			Dimension: c.Dim,
		}
		if len(teachers) > 0 {
			// Feature maps are compared place by place, so both look at the same frame.
			manifest.Alignment, manifest.Input.Order = teachers[0].scaledAlignment(side), teachers[0].manifest.Input.Order
		}
	} else {
		registry, err := c.openRegistry()
		if err != nil {
			return manifest, nil, err
		}
		m, err := registry.Model(c.Base)
		if err != nil {
			return manifest, nil, err
		}
		if m.Task != embed.TaskEncoder {
			return manifest, nil, usageError{fmt.Errorf("--base: %s is not an encoder", c.Base)}
		}
		if data, err = m.ReadVerified(); err != nil {
			return manifest, nil, err
		}
		manifest = m.Manifest
	}
	manifest, model, err := parseWithoutCohort(manifest, data)
	if err != nil {
		return manifest, nil, err
	}
	if c.Learn == "head" {
		if data, err = siamese.WithHead(model, manifest.Input.Name, manifest.Outputs[0].Name,
			[]int64{1, 3, int64(manifest.Input.Height), int64(manifest.Input.Width)}); err != nil {
			return manifest, nil, err
		}
		manifest.Outputs = []embed.Output{{Name: siamese.HeadOutput, Shape: manifest.Outputs[0].Shape}}
		model, err = grad.Parse(data)
	}
	return manifest, model, err
}

func (c trainCmd) trainerOptions(base embed.Manifest, model *grad.Model) (siamese.Options, error) {
	o := siamese.Options{
		Model: model, Image: base.Input.Name, Embedding: base.Outputs[0].Name,
		Input:     planarInput(base),
		BatchNorm: c.BatchNorm || c.From != "",
		Loss:      siamese.Loss(c.Loss), Margin: c.Margin, Mining: siamese.Mining(c.Mining), Retire: c.Mining == "retire",
		People: c.People, PhotosEach: c.Each, Steps: c.Steps, WarmUp: c.WarmUp, Rate: c.Rate, Optimizer: c.Optimizer,
		WeightDecay: c.WeightDecay, MaxNorm: c.MaxNorm, Augmentation: siamese.DefaultAugmentation(), Seed: c.Seed,
	}
	var err error
	o.Learn, err = c.chosenWeights(model)
	return o, err
}

// chosenWeights is the choice of --learn; nil means all.
func (c trainCmd) chosenWeights(model *grad.Model) (func(name string, shape []int64) bool, error) {
	switch {
	case c.Learn == "all":
		return nil, nil
	case c.Learn == "head":
		return func(name string, _ []int64) bool { return name == siamese.HeadWeight }, nil
	case strings.HasPrefix(c.Learn, "last:"):
		if n, err := strconv.Atoi(strings.TrimPrefix(c.Learn, "last:")); err == nil && n >= 1 {
			last := model.LastWeights(n)
			return func(name string, _ []int64) bool { return slices.Contains(last, name) }, nil
		}
	}
	return nil, usageError{fmt.Errorf("--learn: %q is not all, last:N or head", c.Learn)}
}

// foundCrops is the content of crops.gob: the crops, and what they were made from.
type foundCrops struct {
	Data     []string
	Detector string
	Photos   []trainingPhoto
}

// loadCrops finds the faces, or reads those that the run found before.
func (c trainCmd) loadCrops(t *tool) (all []trainingPhoto, err error) {
	cache := filepath.Join(c.Run_, "crops.gob")
	if f, err := os.Open(cache); err == nil {
		defer f.Close()
		var found foundCrops
		if err := gob.NewDecoder(f).Decode(&found); err != nil {
			return nil, fmt.Errorf("%s: %w", cache, err)
		}
		if !slices.Equal(found.Data, c.Data) || found.Detector != c.Detector {
			return nil, usageError{fmt.Errorf("--run: %s belongs to a run with other photos or another detector; choose another folder", c.Run_)}
		}
		return found.Photos, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	pipeline, err := pipelineFlags{
		// A pipeline needs an encoder; its embeddings are not used.
		modelFolders: c.modelFolders, Detector: c.Detector, Encoder: "builtin-encoder", ORTLibrary: c.ORTLibrary, Provider: c.Provider, Face: "largest",
	}.openPipeline(t.ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pipeline.Close()) }()
	for _, name := range c.Data {
		more, err := c.findCrops(t, pipeline, name)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(foundCrops{c.Data, c.Detector, all}); err != nil {
		return nil, err
	}
	return all, replaceFile(cache, b.Bytes())
}

func (c trainCmd) findCrops(t *tool, pipeline *likeness.Pipeline, name string) (out []trainingPhoto, err error) {
	set, err := photos.Open(name)
	if err != nil {
		return nil, usageError{fmt.Errorf("--data: %w", err)}
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	names := set.Names()
	folders := map[string]bool{}
	for _, n := range names {
		folders[path.Dir(n)] = true
	}
	found, err := cropFaces(t.ctx, t.stderr, pipeline, c.threads(), "finding faces in "+filepath.Base(name), set, names)
	if err != nil {
		return nil, err
	}
	for i, n := range names {
		if found[i].Crop == nil {
			continue
		}
		photo := trainingPhoto{Name: n, Crop: found[i].Crop}
		if len(folders) > 1 {
			photo.Person = path.Dir(n)
		}
		out = append(out, photo)
	}
	return out, nil
}

// splitByPerson divides the photos by the name of the person, so that nobody is on
// both sides, and another run with other photos divides people the same way.
func (c trainCmd) splitByPerson(all []trainingPhoto) (learn, measure []trainingPhoto) {
	for _, p := range all {
		h := fnv.New64a()
		h.Write([]byte(path.Base(p.Person)))
		if p.Person != "" && float64(h.Sum64()%1000) < 1000*c.Validate {
			measure = append(measure, p)
		} else {
			learn = append(learn, p)
		}
	}
	return learn, measure
}

// trainRun is one run of the command.
type trainRun struct {
	trainCmd
	t          *tool
	learner    learner
	step       func(context.Context) (curvePoint, error)
	base       embed.Manifest
	validation *trainSet
	photos     int // of a step
	curve      []curvePoint
}

// learner is a way to teach an encoder.
type learner interface {
	fmt.Stringer
	io.Closer
	Done() int
	Embed(context.Context, []siamese.Photo) ([]face.Embedding, error)
	Export() ([]byte, error)
	Save(io.Writer) error
	Load(io.Reader) error
}

// curvePoint is a row of curve.csv: the means of the steps since the last row.
type curvePoint struct {
	Step                       int
	Loss, Active, Spread, Rate float64
	Apart                      float64   // mean of 1 - cosine with the teachers; without teachers 0
	Hints                      []float64 // relative errors of the hints
	FNMR                       float64   // at FMR 1e-2 on people who are not learnt from; NaN: not measured
	PhotosPerSecond            float64
}

func (r *trainRun) runFile(name string) string { return filepath.Join(r.Run_, name) }

// resume continues from the last checkpoint.
func (r *trainRun) resume() error {
	data, err := os.ReadFile(r.runFile("checkpoint"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := r.learner.Load(bytes.NewReader(data)); err != nil {
		return fmt.Errorf("%s: %w", r.runFile("checkpoint"), err)
	}
	rows, err := os.ReadFile(r.runFile("curve.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(rows, &r.curve); err != nil {
		return fmt.Errorf("%s: %w", r.runFile("curve.json"), err)
	}
	for i := range r.curve {
		for _, x := range r.curve[i].optionalNumbers() {
			if *x < 0 {
				*x = math.NaN()
			}
		}
	}
	r.curve = slices.DeleteFunc(r.curve, func(p curvePoint) bool { return p.Step > r.learner.Done() })
	return nil
}

// takeSteps trains, with measurements, checkpoints and a printed line for each
// measurement.
func (r *trainRun) takeSteps(ctx context.Context) error {
	if r.learner.Done() == 0 && len(r.curve) == 0 {
		if err := r.addPoint(ctx, curvePoint{Loss: math.NaN(), Active: math.NaN()}); err != nil {
			return err
		}
	}
	began, saved := time.Now(), time.Now()
	from := r.learner.Done()
	var sum curvePoint
	n := 0.0
	since := time.Now()
	for r.learner.Done() < r.Steps {
		p, err := r.step(ctx)
		if err != nil {
			if ctx.Err() != nil { // interrupted: nothing is lost
				return errors.Join(ctx.Err(), r.save())
			}
			return err
		}
		n++
		sum.add(p)
		over := r.Minutes > 0 && time.Since(began).Minutes() >= r.Minutes
		if r.learner.Done()%r.Every == 0 || r.learner.Done() == r.Steps || over {
			point := curvePoint{
				Step: r.learner.Done(), Loss: sum.Loss / n, Active: sum.Active / n, Spread: sum.Spread / n, Rate: sum.Rate, Apart: sum.Apart / n,
				PhotosPerSecond: n * float64(r.photos) / time.Since(since).Seconds(),
			}
			for _, h := range sum.Hints {
				point.Hints = append(point.Hints, h/n)
			}
			if err := r.addPoint(ctx, point); err != nil {
				return errors.Join(err, r.save())
			}
			left := time.Duration(float64(time.Since(began)) / float64(r.learner.Done()-from) * float64(r.Steps-r.learner.Done()))
			fmt.Fprintf(r.t.stderr, "%s; %s left\n", r.curve[len(r.curve)-1], left.Round(time.Second))
			sum, n, since = curvePoint{}, 0, time.Now()
		}
		if time.Since(saved) > r.Checkpoint || over {
			if err := r.save(); err != nil {
				return err
			}
			saved = time.Now()
		}
		if over {
			fmt.Fprintf(r.t.stderr, "stopped after %g minutes; the same command continues\n", r.Minutes)
			break
		}
	}
	return r.save()
}

// add adds what one step did.
func (p *curvePoint) add(step curvePoint) {
	p.Loss, p.Active, p.Spread, p.Apart, p.Rate = p.Loss+step.Loss, p.Active+step.Active, p.Spread+step.Spread, p.Apart+step.Apart, step.Rate
	if p.Hints == nil {
		p.Hints = make([]float64, len(step.Hints))
	}
	for i, h := range step.Hints {
		p.Hints[i] += h
	}
}

// optionalNumbers are the numbers of a point that may be NaN.
func (p *curvePoint) optionalNumbers() []*float64 { return []*float64{&p.Loss, &p.Active, &p.FNMR} }

func (p curvePoint) String() string {
	s := fmt.Sprintf("step %d: loss %.4f", p.Step, p.Loss)
	if p.Active > 0 {
		s += fmt.Sprintf(", %.0f %% of triplets active", 100*p.Active)
	}
	if p.Apart > 0 {
		s += fmt.Sprintf(", 1 - cosine with the teachers %.4f", p.Apart)
	}
	if len(p.Hints) > 0 {
		s += fmt.Sprintf(", hints off by %.2f", p.Hints)
	}
	if !math.IsNaN(p.FNMR) {
		s += fmt.Sprintf(", FNMR %.2f %% at FMR 1e-2", 100*p.FNMR)
	}
	return s + fmt.Sprintf(", %.0f photos/s", p.PhotosPerSecond)
}

// measuredPhotos is how many photos a measurement uses, at most.
const measuredPhotos = 1500

// addPoint adds a point to the curve, with the error rate on people who are not
// learnt from: all comparisons among their photos.
func (r *trainRun) addPoint(ctx context.Context, point curvePoint) error {
	point.FNMR = math.NaN()
	v := r.validation
	if n := min(measuredPhotos, v.Len()); n > 1 {
		shown := make([]siamese.Photo, n)
		for i := range shown {
			var err error
			if shown[i], err = v.Photo(i); err != nil {
				return err
			}
		}
		e, err := r.learner.Embed(ctx, shown)
		if err != nil {
			return err
		}
		var mated, impostor []float64
		for i := range e {
			for j := range i {
				if v.Person(i) == v.Person(j) {
					mated = append(mated, e[i].Cosine(e[j]))
				} else {
					impostor = append(impostor, e[i].Cosine(e[j]))
				}
			}
		}
		if len(mated) > 0 && len(impostor) > 0 {
			scores, err := measure.NewScores(mated, impostor)
			if err != nil {
				return err
			}
			point.FNMR = scores.FNMR(scores.ThresholdAt(1e-2)).Value()
		}
	}
	r.curve = append(r.curve, point)
	return nil
}

// save writes the checkpoint and the curves.
func (r *trainRun) save() error {
	var b bytes.Buffer
	if err := r.learner.Save(&b); err != nil {
		return err
	}
	var table bytes.Buffer
	w := csv.NewWriter(&table)
	number := func(x float64) string { return strconv.FormatFloat(x, 'g', 6, 64) }
	rows := [][]string{{"step", "loss", "active", "spread", "apart", "rate", "fnmr_at_fmr_1e-2", "photos_per_second"}}
	clean := slices.Clone(r.curve)
	for i, p := range r.curve {
		rows = append(rows, []string{strconv.Itoa(p.Step), number(p.Loss), number(p.Active), number(p.Spread), number(p.Apart), number(p.Rate), number(p.FNMR), number(p.PhotosPerSecond)})
		for _, x := range clean[i].optionalNumbers() {
			if math.IsNaN(*x) {
				*x = -1 // JSON has no NaN
			}
		}
	}
	if err := w.WriteAll(rows); err != nil {
		return err
	}
	text, err := json.Marshal(clean)
	if err != nil {
		return err
	}
	// The curve is written first: points after the checkpoint are removed when the
	// run continues.
	return errors.Join(
		replaceFile(r.runFile("curve.json"), text),
		replaceFile(r.runFile("curve.csv"), table.Bytes()),
		drawTraining(r.runFile("curve.png"), r.curve),
		replaceFile(r.runFile("checkpoint"), b.Bytes()),
	)
}

// describeEncoder makes the manifest of the trained encoder.
func (c trainCmd) describeEncoder(base embed.Manifest, model []byte, steps int) ([]byte, error) {
	sum := sha256.Sum256(model)
	m := base
	m.ID, m.File, m.SHA256, m.Size = c.ID, c.ID+".onnx", hex.EncodeToString(sum[:]), max(1, int64(len(model)))
	// The scores of other weights are different, so the calibration does not hold.
	m.URL, m.Calibration, m.Head = "", nil, nil
	var sets []string
	for _, d := range c.Data {
		sets = append(sets, filepath.Base(d))
	}
	begun := "random weights (" + c.From + ")"
	if c.From == "" {
		begun = c.Base
		m.TrainingData = strings.TrimSpace(base.TrainingData + "; then " + strings.Join(sets, ", "))
	} else {
		m.License, m.TrainingData = "yours to say", strings.Join(sets, ", ")
	}
	m.Source = fmt.Sprintf("likeness train, %s, from %s", time.Now().UTC().Format(time.DateOnly), begun)
	photos := c.People * c.Each
	if len(c.Teacher) > 0 {
		photos = c.Batch
		m.TrainingData += "; the teachers were " + strings.Join(c.Teacher, ", ")
	}
	m.Notes = fmt.Sprintf("%d steps of %d photos.", steps, photos)
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	_, err = embed.ParseManifest(text)
	return append(text, '\n'), err
}

// export writes the encoder with its manifest.
func (r *trainRun) export() error {
	data, err := r.learner.Export()
	if err != nil {
		return err
	}
	text, err := r.describeEncoder(r.base, data, r.learner.Done())
	if err != nil {
		return err
	}
	model, manifest := filepath.Join(r.Out, r.ID+".onnx"), filepath.Join(r.Out, r.ID+".json")
	if err := errors.Join(replaceFile(model, data), replaceFile(manifest, text)); err != nil {
		return err
	}
	fmt.Fprintf(r.t.stderr, "wrote %s and %s\n", model, manifest)
	return nil
}
