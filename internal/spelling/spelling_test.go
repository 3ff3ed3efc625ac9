package spelling_test

import (
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/spelling"
)

type command struct {
	Listen string `env:"LIKENESS_LISTEN"`
	Point  string `env:"LIKENESS_OPERATING_POINT"`
	Sub    struct {
		Deep string `env:"LIKENESS_ORT_LIBRARY"`
	} `cmd:""`
}

func model(t *testing.T) *kong.Application {
	t.Helper()
	k, err := kong.New(&command{})
	if err != nil {
		t.Fatal(err)
	}
	return k.Model
}

func TestVariables(t *testing.T) {
	t.Parallel()
	k := model(t)
	for _, tt := range []struct {
		name    string
		environ []string
		want    []spelling.Misspelling
	}{
		{"known", []string{"LIKENESS_LISTEN=x", "LIKENESS_OPERATING_POINT=", "LIKENESS_ORT_LIBRARY=y", "LIKENESS_KEY=z", "LIKENESS_TEST_PG_BIN=none"}, nil},
		{"others' business", []string{"PATH=/bin", "HOME=/", "LIKE=LIKENESS_LISTN", "LISTEN=1", "EMPTY", "", "=C:=C:\\x"}, nil},
		{"misspelt", []string{"LIKENESS_LISTN=x", "LIKENESS_OPERATIONPOINT=fmr_1e-3", "LIKENESS_ORT_LIBARY"}, []spelling.Misspelling{
			{"LIKENESS_LISTN", "LIKENESS_LISTEN"}, {"LIKENESS_OPERATIONPOINT", "LIKENESS_OPERATING_POINT"}, {"LIKENESS_ORT_LIBARY", "LIKENESS_ORT_LIBRARY"},
		}},
		{"like none", []string{"LIKENESS_COLOUR=red", "LIKENESS_=", "LIKENESS_X"}, []spelling.Misspelling{
			{"LIKENESS_", ""}, {"LIKENESS_COLOUR", ""}, {"LIKENESS_X", ""},
		}},
		{"the prefix misspelt", []string{"LIKENES_LISTEN=x", "LIKENESSLISTEN=y", "LKIENESS_ORT_LIBRARY=z"}, []spelling.Misspelling{
			{"LIKENESSLISTEN", "LIKENESS_LISTEN"}, {"LIKENES_LISTEN", "LIKENESS_LISTEN"}, {"LKIENESS_ORT_LIBRARY", "LIKENESS_ORT_LIBRARY"},
		}},
		{"small letters", []string{"likeness_listen=x", "Likeness_Listen=y"}, []spelling.Misspelling{
			{"Likeness_Listen", "LIKENESS_LISTEN"}, {"likeness_listen", "LIKENESS_LISTEN"},
		}},
		{"a port, and no Kubernetes", []string{"LIKENESS_PORT=8081"}, []spelling.Misspelling{{"LIKENESS_PORT", ""}}},
		{"Kubernetes", []string{
			"LIKENESS_SERVICE_HOST=10.0.0.1", "LIKENESS_SERVICE_PORT=80", "LIKENESS_SERVICE_PORT_HTTP=80", "LIKENESS_PORT=tcp://10.0.0.1:80",
			"LIKENESS_PORT_80_TCP=tcp://10.0.0.1:80", "LIKENESS_PORT_80_TCP_ADDR=10.0.0.1", "LIKENESS_PORTS=1",
		}, []spelling.Misspelling{{"LIKENESS_PORTS", ""}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, spelling.Variables(tt.environ, k)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	known := []string{"listen", "data-dir", "max-megapixels"}
	for name, want := range map[string]string{
		"lissten": "listen", "data_dir": "data-dir", "max-megapixel": "max-megapixels", "database": "", "x": "", "": "",
	} {
		if got := spelling.Nearest(name, known); got != want {
			t.Errorf("%q is nearest to %q; want %q", name, got, want)
		}
	}
}
