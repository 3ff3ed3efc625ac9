package measure_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/measure"
)

func TestParsePairs(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		in   string
		want []measure.Pair
		says string // of the error
	}{
		"pairs":        {in: "# comment\n\na/1.jpg a/2.jpg 1\r\n  a/1.jpg\tb/1.jpg 0", want: []measure.Pair{{"a/1.jpg", "a/2.jpg", true, ""}, {"a/1.jpg", "b/1.jpg", false, ""}}},
		"folds":        {in: "a b 1 x\na c 0 y", want: []measure.Pair{{"a", "b", true, "x"}, {"a", "c", false, "y"}}},
		"clean paths":  {in: "./a/1 b//2 0", want: []measure.Pair{{"a/1", "b/2", false, ""}}},
		"empty":        {in: "# nothing\n", says: "no pairs"},
		"two fields":   {in: "a b 1\na b", says: "line 2"},
		"five fields":  {in: "a b 1 x y", says: "line 1"},
		"other label":  {in: "a b yes", says: "line 1"},
		"half folds":   {in: "a b 1 x\n\na c 0", says: "line 3"},
		"endless line": {in: strings.Repeat("x", 1<<17), says: "too long"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := measure.ReadPairs(strings.NewReader(tt.in))
			if (err != nil) != (tt.says != "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("error %v, want one that says %q", err, tt.says)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestReadOfficialPairs(t *testing.T) {
	t.Parallel()
	view2 := "2\t1\nAnn\t1\t4\nAnn\t1\tBob\t10\nBob\t2\t3\nCy\t1\tAnn\t2\n"
	got, err := measure.ReadPairs(strings.NewReader(view2))
	want := []measure.Pair{
		{"Ann/Ann_0001.jpg", "Ann/Ann_0004.jpg", true, "1"},
		{"Ann/Ann_0001.jpg", "Bob/Bob_0010.jpg", false, "1"},
		{"Bob/Bob_0002.jpg", "Bob/Bob_0003.jpg", true, "2"},
		{"Cy/Cy_0001.jpg", "Ann/Ann_0002.jpg", false, "2"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatalf("%v (-want +got)\n%s", err, diff)
	}
	measure.AddFolder(got, []string{"a/b.jpg", "lfw/Ann/Ann_0001.jpg"})
	if got[0].Probe != "lfw/Ann/Ann_0001.jpg" || got[3].Reference != "lfw/Ann/Ann_0002.jpg" {
		t.Errorf("prefix: %+v", got)
	}
	if view1, err := measure.ReadPairs(strings.NewReader("1\nAnn 1 4\nAnn 1 Bob 10\n")); err != nil || view1[0].Fold != "" || len(view1) != 2 {
		t.Errorf("View 1: %v, %v", view1, err)
	}
	for name, tt := range map[string]struct{ in, says string }{
		"too few":       {"2 1\nAnn 1 4\n", "promises"},
		"wrong order":   {"1\nAnn 1 Bob 10\nAnn 1 4\n", "line 2"},
		"not a number":  {"1\nAnn 1 x\nAnn 1 Bob 10\n", "line 2"},
		"photo 0":       {"1\nAnn 1 4\nAnn 0 Bob 10\n", "line 3"},
		"huge promises": {"9223372036854775807 2\nAnn 1 4\n", "promises"},
	} {
		if _, err := measure.ReadPairs(strings.NewReader(tt.in)); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPeople(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		in        string
		one       [][]string // photos of one person each
		different [][2]string
		fails     bool
	}{
		"by folder":                    {in: "a/1 a/2 1\na/3 b/1 0", one: [][]string{{"a/1", "a/2", "a/3"}}, different: [][2]string{{"a/1", "b/1"}}},
		"by pairs":                     {in: "1 2 1\n2 3 1\n4 1 0\n5 4 1", one: [][]string{{"1", "2", "3"}, {"4", "5"}}, different: [][2]string{{"1", "4"}}},
		"folders that are no people":   {in: "day/1 night/1 1\nday/1 day/2 0", one: [][]string{{"day/1", "night/1"}}, different: [][2]string{{"day/1", "day/2"}}},
		"one photo with itself":        {in: "1 1 1\n1 2 0", one: [][]string{{"1"}}, different: [][2]string{{"1", "2"}}},
		"pairs that contradict others": {in: "1 2 1\n2 3 1\n1 3 0", fails: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pairs, err := measure.ReadPairs(strings.NewReader(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			who, err := measure.PeopleOnPhotos(pairs)
			if (err != nil) != tt.fails {
				t.Fatalf("error %v", err)
			}
			for _, photos := range tt.one {
				for _, p := range photos {
					if who[p] != who[photos[0]] {
						t.Errorf("%s is %q, and %s is %q", p, who[p], photos[0], who[photos[0]])
					}
				}
			}
			for _, d := range tt.different {
				if who[d[0]] == who[d[1]] {
					t.Errorf("%v are both %q", d, who[d[0]])
				}
			}
		})
	}
}

// Whatever the file holds, the people found agree with every pair of it.
func FuzzPairs(f *testing.F) {
	f.Add("a/1 a/2 1\na/1 b/1 0")
	f.Add("1 2 1 x\n2 3 0 y\n# end")
	f.Add("../../x \x00 1\n. / 0")
	f.Fuzz(func(t *testing.T, in string) {
		pairs, err := measure.ReadPairs(strings.NewReader(in))
		if err != nil {
			return
		}
		who, err := measure.PeopleOnPhotos(pairs)
		if err != nil {
			return
		}
		for _, p := range pairs {
			if p.Mated != (who[p.Probe] == who[p.Reference]) {
				t.Fatalf("%+v, but the people are %q and %q", p, who[p.Probe], who[p.Reference])
			}
		}
	})
}
