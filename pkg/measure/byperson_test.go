package measure_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/likeness-id/likeness/pkg/measure"
)

func TestCountByPerson(t *testing.T) {
	t.Parallel()
	// One person fails in 10 of 10 comparisons, three others in none of one.
	var people []string
	var missed []bool
	for i := range 13 {
		person := "many"
		if i >= 10 {
			person = fmt.Sprint("one", i)
		}
		people, missed = append(people, person), append(missed, i < 10)
	}
	got := measure.CountByPerson(people, missed, measure.DefaultOptions())
	if got.People != 4 || got.Comparisons != (measure.Rate{Count: 10, Total: 13}) || math.Abs(got.Value-0.25) > 1e-12 {
		t.Errorf("%+v, want a quarter of 4 people", got)
	}
	// A draw of four people holds the first one 0 to 3 times in 95 % of all draws.
	if got.Interval.Low != 0 || got.Interval.High != 0.75 {
		t.Errorf("interval %+v", got.Interval)
	}
	if found := measure.CountByPerson([]string{"a", "a", "b"}, make([]bool, 3), measure.DefaultOptions()); found.Value != 0 || found.Interval != (measure.Rate{Total: 2}).Interval(0.95) {
		t.Errorf("nothing counted of two people: %+v", found)
	}
	if none := measure.CountByPerson(nil, nil, measure.DefaultOptions()); none != (measure.RateByPerson{}) {
		t.Errorf("nobody gives %+v", none)
	}
}
