package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/measure"
)

// portraitsOf makes portraits of so many people, each with that many photos; sameness
// is how near those of one person are to one another.
func portraitsOf(t *testing.T, set, people, photos int, sameness float64) (out []portrait) {
	t.Helper()
	rng := rand.New(rand.NewPCG(7, uint64(set)))
	for i := range people {
		who := make([]float64, 16)
		for k := range who {
			who[k] = sameness * rng.NormFloat64()
		}
		for range photos {
			e := make(face.Embedding, len(who))
			for k := range e {
				e[k] = float32(who[k] + rng.NormFloat64())
			}
			e, err := e.Normalise()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, portrait{e, set, fmt.Sprintf("person %d", i)})
		}
	}
	return out
}

func quiet(t *testing.T) *tool {
	t.Helper()
	return &tool{ctx: t.Context(), stdout: io.Discard, stderr: io.Discard}
}

// Nobody is in two parts, mated and impostor pairs are as many, and nobody has
// more than their share.
func TestHeadPairs(t *testing.T) {
	t.Parallel()
	portraits := append(portraitsOf(t, 0, 20, 7, 1), portraitsOf(t, 1, 20, 1, 1)...)
	for i := range 5 { // a set that tells nobody apart has no pairs
		portraits = append(portraits, portrait{portraits[i].embedding, 2, ""})
	}
	parts, err := headPairs(portraits)
	if err != nil {
		t.Fatal(err)
	}
	part, mated := map[string]int{}, map[string]int{}
	for i, pairs := range parts {
		if c := countsOf(pairs); c.Mated != c.Impostor || c.People != []int{12, 4, 4}[i] {
			t.Errorf("part %d: %+v", i, c)
		}
		for _, p := range pairs {
			for _, who := range []string{p.PersonA, p.PersonB} {
				if at, ok := part[who]; ok && at != i {
					t.Errorf("%s is in two parts", who)
				}
				part[who] = i
			}
			if p.Mated() {
				mated[p.PersonA]++
			}
		}
	}
	for who, n := range mated {
		if n != pairsOfOne {
			t.Errorf("%s has %d mated pairs", who, n)
		}
	}
	if _, err := headPairs(portraitsOf(t, 0, 3, 2, 1)); err == nil {
		t.Error("three people make a head")
	}
}

func TestUnrank(t *testing.T) {
	t.Parallel()
	i := 0
	for a := 1; a < 9; a++ {
		for b := range a {
			if x, y := unrank(i); x != a || y != b {
				t.Errorf("%d is %d, %d; want %d, %d", i, x, y, a, b)
			}
			i++
		}
	}
}

// A head that was trained can be written, is checked when it is read, and says
// what it said before.
func TestTrainHead(t *testing.T) {
	t.Parallel()
	picture := filepath.Join(t.TempDir(), "reliability.png")
	var log strings.Builder
	u := quiet(t)
	u.stderr = &log
	head, err := calibrateCmd{Reliability: picture}.trainHead(u, portraitsOf(t, 0, 120, 3, 1), "made up")
	if err != nil {
		t.Fatal(err)
	}
	if head.HeldOut.Accuracy < 0.7 || head.HeldOut.ECE > 0.2 || head.HeldOut.Mated != 72 || head.Trained.People != 72 {
		t.Errorf("got %+v", head)
	}
	for _, v := range measure.HeadVariants() {
		if !strings.Contains(log.String(), "\n"+string(v)) {
			t.Errorf("the table does not tell of %s:\n%s", v, log.String())
		}
	}
	f, err := os.Open(picture)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if img, err := png.Decode(f); err != nil || img.Bounds().Dx() < 600 {
		t.Errorf("the reliability plot: %v", err)
	}

	text, err := models.FS.ReadFile("sface.json")
	if err != nil {
		t.Fatal(err)
	}
	model, err := embed.ParseManifest(text)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "sface.json")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	// The crowd's embeddings have 16 numbers, the model's 128.
	wide := *head
	wide.Variant, wide.Weights = face.HeadAbsolute, make([]float64, 128)
	for i := range wide.Weights {
		wide.Weights[i] = -float64(i) / 7
	}
	if err := writeManifest(name, model, someCalibration(), &wide); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := embed.ParseManifest(written)
	if err != nil {
		t.Fatal(err)
	}
	wide.HeldOut = got.Head.HeldOut // rounded
	if diff := cmp.Diff(&wide, got.Head); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if strings.Contains(string(written), " \n") {
		t.Error("a line of the manifest ends with a blank")
	}
	wide.Weights = wide.Weights[1:]
	if err := writeManifest(name, model, someCalibration(), &wide); err == nil {
		t.Error("a head of another length was written")
	}
	var again face.Head
	if err := json.Unmarshal(formatHead(*head, "  "), &again); err != nil || again.Variant != head.Variant {
		t.Errorf("%+v, %v", again, err)
	}
}

// The halves share nobody, and what one says of the other is told both ways.
func TestSplit(t *testing.T) {
	t.Parallel()
	portraits := append(portraitsOf(t, 0, 150, 2, 1), portraitsOf(t, 1, 40, 1, 1)...)
	for i := range portraits[300:] {
		portraits[300+i].person = ""
	}
	parts := halves(portraits)
	in := map[string]int{}
	for half, part := range parts {
		for _, p := range part {
			if at, ok := in[p.person]; ok && at != half && p.person != "" {
				t.Errorf("%s is in both halves", p.person)
			}
			in[p.person] = half
		}
	}
	if n := len(parts[0]) + len(parts[1]); n != len(portraits) || len(parts[0]) < n/3 || len(parts[1]) < n/3 {
		t.Errorf("halves of %d and %d", len(parts[0]), len(parts[1]))
	}
	var log strings.Builder
	u := quiet(t)
	u.stderr = &log
	if err := split(u, portraits, 2); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "fmr_1e-2"); n != 2 {
		t.Errorf("the table:\n%s", log.String())
	}
}

// The second pass finds an interval around each point's rate, and the table for
// galleries says where the calibration ends.
func TestCalibrated(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	u := quiet(t)
	u.stderr = &log
	cal, err := calibrated(u, portraitsOf(t, 0, 150, 2, 1), 3, "made up")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range cal.Points {
		if !(p.Interval.Low > 0 && p.Interval.Low < p.FMR && p.FMR < p.Interval.High*1.05 && p.Interval.High < 3*p.FMR) {
			t.Errorf("%+v", p)
		}
	}
	if len(cal.Points) != 2 || !strings.Contains(log.String(), "A WHOLE SEARCH OF") || !strings.Contains(log.String(), "-\n") {
		t.Errorf("%d points\n%s", len(cal.Points), log.String())
	}
}

func TestReliabilityWantsAHead(t *testing.T) {
	t.Parallel()
	got := call(t.Context(), "calibrate", "--images", t.TempDir(), "--reliability", "x.png")
	if got.code != exitUsage || !strings.Contains(got.stderr, "--head") {
		t.Errorf("%+v", got)
	}
	if _, err := headPairs(nil); err == nil || errors.Is(err, face.Internal) {
		t.Errorf("nobody: %v", err)
	}
}
