package index_test

import (
	"context"
	"fmt"
	"log"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
)

// The best k subjects, each compared as what their templates give together.
func Example() {
	staff := index.Key{Tenant: "acme", Gallery: "staff", ModelID: "my-encoder"}
	x := index.New(index.DefaultOptions())
	err := x.Add(staff,
		index.Entry{TemplateID: "t1", SubjectID: "ada", Embedding: face.Embedding{1, 0, 0}},
		index.Entry{TemplateID: "t2", SubjectID: "ada", Embedding: face.Embedding{0.8, 0.6, 0}},
		index.Entry{TemplateID: "t3", SubjectID: "grace", Embedding: face.Embedding{0, 0, 1}},
	)
	if err != nil {
		log.Fatal(err)
	}
	hits, subjects, err := x.Search(context.Background(), staff, face.Embedding{0.6, 0.8, 0}, 5)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(subjects, "subjects")
	for _, h := range hits {
		fmt.Printf("%s by %v: %.2f\n", h.SubjectID, h.TemplateIDs, h.Score)
	}
	// Output:
	// 2 subjects
	// ada by [t1 t2]: 0.80
	// grace by [t3]: 0.00
}

// A subject that was removed is not found by any search that starts afterwards.
func ExampleIndex_RemoveSubject() {
	staff := index.Key{Tenant: "acme", Gallery: "staff", ModelID: "my-encoder"}
	x := index.New(index.DefaultOptions())
	if err := x.Add(staff, index.Entry{TemplateID: "t1", SubjectID: "ada", Embedding: face.Embedding{1, 0}}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(x.Templates(staff), x.RemoveSubject("acme", "staff", "ada"), x.Templates(staff))
	// Output: 1 1 0
}

// Only embeddings of unit length are taken.
func ExampleValidate() {
	fmt.Println(index.Validate(face.Embedding{0.6, 0.8}))
	fmt.Println(index.Validate(face.Embedding{6, 8}))
	// Output:
	// <nil>
	// index.Validate: invalid_request: embedding is not of unit length, or has numbers that are not finite
}
