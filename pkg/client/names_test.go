package client_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"github.com/likeness-id/likeness/api"
)

// TestReasonNames compares the Go names of the reason codes with the codes of
// the contract. The generator pairs them by their order.
func TestReasonNames(t *testing.T) {
	t.Parallel()
	var contract struct {
		Components struct {
			Schemas struct {
				Reason struct{ Enum []string } `yaml:"Reason"`
			}
		}
	}
	if err := yaml.Unmarshal([]byte(api.Contract()), &contract); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, code := range contract.Components.Schemas.Reason.Enum {
		name := ""
		for word := range strings.SplitSeq(code, "_") {
			name += word[:1] + strings.ToLower(word[1:])
		}
		want = append(want, name)
	}
	text, err := os.ReadFile("codegen.overlay.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var overlay struct {
		Actions []struct {
			Target string
			Update struct {
				Names []string `yaml:"x-enum-varnames"`
			}
		}
	}
	if err := yaml.Unmarshal(text, &overlay); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range overlay.Actions {
		if a.Target == "$.components.schemas.Reason" {
			got = a.Update.Names
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || len(got) == 0 {
		t.Errorf("x-enum-varnames of Reason in codegen.overlay.yaml (-codes of the contract +names):\n%s", diff)
	}
}
