package sqlite_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/likeness-id/likeness/internal/killtest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// childEnv makes the test binary enrol into the store it names until it is
// killed.
const childEnv = "LIKENESS_TEST_ENROL_INTO"

const killWriters = 32

// enrolUntilKilled prints the id of each template after its enrolment was
// acknowledged. The id is the seed of the embedding.
func enrolUntilKilled(path string) {
	s, err := sqlite.Open(context.Background(), sqlite.Options{Path: path})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var wg sync.WaitGroup
	for w := range killWriters {
		wg.Go(func() {
			for i := 0; ; i++ {
				seed := os.Getpid()*1_000_000 + w*10_000 + i
				subject := fmt.Sprint("s", seed)
				if _, err := s.CreateSubject(context.Background(), tenant, face.DefaultGallery, face.Subject{ID: subject}); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				if err := enrol(s, fmt.Sprint("t", seed), subject, embedding(seed, 64)); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				// One write of one line: nothing is in a buffer when the end comes.
				fmt.Fprintln(os.Stdout, seed)
			}
		})
	}
	wg.Wait()
}

// TestKill kills a process in the middle of its enrolments, again and again:
// whatever it acknowledged is there afterwards, in the file and in the index.
func TestKill(t *testing.T) {
	t.Parallel()
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "likeness.db")
	kills := killtest.Kills(t, 5)
	found := func(s *sqlite.Store, acked []int) {
		t.Helper()
		for _, seed := range acked {
			want := fmt.Sprint("t", seed)
			got, err := s.Templates(ctx, tenant, face.DefaultGallery, fmt.Sprint("s", seed), model)
			if err != nil || len(got) != 1 || got[0].ID != want {
				t.Fatalf("%s was acknowledged and is not there: %v, %v", want, got, err)
			}
			r, err := s.Search(ctx, tenant, face.DefaultGallery, model, embedding(seed, 64), 1)
			if err != nil || len(r.Candidates) != 1 || r.Candidates[0].SubjectID != got[0].SubjectID || r.Candidates[0].Score < 0.999 {
				t.Fatalf("%s was acknowledged and is not found: %+v, %v", want, r, err)
			}
		}
	}
	var acked []int
	for round := range kills {
		before := len(acked)
		child := exec.CommandContext(ctx, os.Args[0])
		child.Env = append(os.Environ(), childEnv+"="+path)
		var stderr strings.Builder
		child.Stderr = &stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if n == 100+37*(round%5) {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				// And read on: what it wrote before counts.
			}
			var seed int
			if _, err := fmt.Sscan(lines.Text(), &seed); err != nil {
				t.Fatal(err)
			}
			acked = append(acked, seed)
		}
		if err := child.Wait(); err == nil || stderr.Len() > 0 {
			t.Fatalf("the child was not killed: %v, %s", err, stderr.String())
		}

		s := open(t, path)
		if round == kills-1 {
			before = 0 // everybody
		}
		found(s, acked[before:])
		g, err := s.Gallery(ctx, tenant, face.DefaultGallery)
		if err != nil || g.Templates < len(acked) {
			t.Errorf("round %d: the gallery counts %d templates, %d were acknowledged (%v)", round, g.Templates, len(acked), err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		wantIntegrity(t, path)
		wantScrubbed(t, filepath.Dir(path))
	}
	t.Logf("%d kills: %d enrolments were acknowledged, all are found", kills, len(acked))
}
