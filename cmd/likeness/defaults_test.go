package main

import (
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/likeness-id/likeness/pkg/inspect"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/siamese"
)

// TestDefaults: the flags of the tool begin with the defaults of the packages
// that do the work.
func TestDefaults(t *testing.T) {
	t.Parallel()
	var train trainCmd
	var look inspectCmd
	for _, c := range []any{&train, &look} {
		k, err := kong.New(c)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := kong.Trace(k, nil)
		if err == nil {
			err = parsed.Reset() // to the defaults; some flags have none and are required
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	got := siamese.Options{
		Loss: siamese.Loss(train.Loss), Margin: train.Margin, Mining: siamese.Mining(train.Mining),
		People: train.People, PhotosEach: train.Each, Steps: train.Steps, WarmUp: train.WarmUp, Rate: train.Rate,
		Optimizer: train.Optimizer, WeightDecay: train.WeightDecay, MaxNorm: train.MaxNorm,
		Augmentation: siamese.DefaultAugmentation(), Seed: train.Seed,
	}
	if diff := cmp.Diff(siamese.DefaultOptions(), got, cmpopts.IgnoreTypes(siamese.Options{}.Model, siamese.Options{}.Learn)); diff != "" {
		t.Errorf("train (-package +tool):\n%s", diff)
	}
	if o := inspect.DefaultMaximiseOptions(); o.Steps != look.Steps || o.Seed != look.Seed {
		t.Errorf("inspect: %d steps with the seed %d, the package has %d and %d", look.Steps, look.Seed, o.Steps, o.Seed)
	}
	if o := likeness.DefaultOptions(); o.Detector != train.Detector || o.Provider != train.Provider {
		t.Errorf("train: %s on %s, the package has %s on %s", train.Detector, train.Provider, o.Detector, o.Provider)
	}
}
