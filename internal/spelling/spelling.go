// Package spelling finds option names that no program reads, most of which are
// misspelt, and suggests the names that were probably meant.
package spelling

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/alecthomas/kong"
)

const prefix = "LIKENESS_"

// elsewhere lists variables that are no option of the two commands, and what
// reads them. A test of each command checks that none is missing.
func elsewhere() []string {
	return []string{
		"LIKENESS_CACHE_DIR", // server and tool: where ONNX Runtime is kept
		"LIKENESS_KEY",       // tool: a secret, so no flag
		"LIKENESS_SERVER",    // tool
		"LIKENESS_LOG_LEVEL", // server
		"LIKENESS_PG_DIR",    // scripts/postgres.sh
		"LIKENESS_SHARED",    // tests
		"LIKENESS_VERSION",   // deploy/docker-compose.yml
	}
}

// Misspelling is a name that no program reads.
type Misspelling struct {
	Name    string
	Nearest string // the known name that it is most like; empty when it is like none
}

// String says so in words.
func (m Misspelling) String() string {
	s := m.Name + " is not a variable that Likeness knows, so it has no effect"
	if m.Nearest != "" {
		s += fmt.Sprintf(": did you mean %s?", m.Nearest)
	}
	return s
}

// Variables finds the environment variables, each NAME=VALUE, that look like
// ours but that no program reads.
func Variables(environ []string, commands ...*kong.Application) (unknown []Misspelling) {
	known := elsewhere()
	for _, c := range commands {
		_ = kong.Visit(c, func(n kong.Visitable, next kong.Next) error {
			if f, ok := n.(*kong.Flag); ok {
				known = append(known, f.Envs...)
			}
			return next(nil)
		})
	}
	// Kubernetes sets these in each container if a service is called likeness.
	kubernetes := slices.ContainsFunc(environ, func(s string) bool { return strings.HasPrefix(s, "LIKENESS_SERVICE_HOST=") })
	ofKubernetes := regexp.MustCompile(`^LIKENESS_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$`)
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if slices.Contains(known, name) || strings.HasPrefix(name, "LIKENESS_TEST_") || kubernetes && ofKubernetes.MatchString(name) {
			continue
		}
		nearest, distance := nearest(strings.ToUpper(name), known)
		if strings.HasPrefix(strings.ToUpper(name), prefix) || nearest != "" && distance <= 2 {
			unknown = append(unknown, Misspelling{name, nearest})
		}
	}
	slices.SortFunc(unknown, func(a, b Misspelling) int { return strings.Compare(a.Name, b.Name) })
	return unknown
}

// Nearest is the known name that is most similar to another, empty if none is
// similar.
func Nearest(name string, known []string) string {
	n, _ := nearest(name, known)
	return n
}

// nearest also returns how many letters differ. The common prefix does not
// count when it decides whether two names are similar.
func nearest(name string, known []string) (best string, distance int) {
	distance = len(name)
	for _, k := range known {
		if d := levenshtein.ComputeDistance(name, k); d < distance {
			best, distance = k, d
		}
	}
	if distance > max(2, len(strings.TrimPrefix(name, prefix))/3) {
		best = ""
	}
	return best, distance
}
