package match_test

import (
	"fmt"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

func ExampleIdentify() {
	candidates := []face.Candidate{{SubjectID: "ada", Score: 0.71}, {SubjectID: "grace", Score: 0.68}}
	decision, margin := match.Identify(candidates, 0.52, 0.05)
	fmt.Printf("%s, margin %.2f\n", decision, margin)
	// Output: ambiguous, margin 0.03
}
