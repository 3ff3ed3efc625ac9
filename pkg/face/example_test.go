package face_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
)

// Every error of the domain has a kind. The kind has a code that is stable, and
// a title for people.
func ExampleKindOf() {
	err := fmt.Errorf("enrol ada: %w", face.Errorf(face.NoFace, "embed.Pick", "No face was found in the photo."))
	kind := face.KindOf(err)
	fmt.Println(kind.Code())
	fmt.Println(kind.Title())
	// Output:
	// no_face
	// No face found
}

// A kind is a target of errors.Is.
func ExampleKind() {
	err := fmt.Errorf("read: %w", face.Errorf(face.NotFound, "sqlite.Subject", "There is no such subject."))
	fmt.Println(errors.Is(err, face.NotFound), errors.Is(err, face.Conflict))
	// Output: true false
}

// The detail is for the caller. The cause is for the log.
func ExampleError() {
	var err error = &face.Error{
		Kind: face.Unavailable, Op: "postgres.Search", Detail: "The database cannot be reached.",
		Err: errors.New("dial tcp: connection refused"),
	}
	if e, ok := errors.AsType[*face.Error](err); ok {
		fmt.Println("caller:", e.Detail)
	}
	fmt.Println("log:", err)
	// Output:
	// caller: The database cannot be reached.
	// log: postgres.Search: unavailable: The database cannot be reached.: dial tcp: connection refused
}

// The score of two embeddings is their cosine similarity. Both must be of unit
// length.
func ExampleEmbedding_Cosine() {
	a, _ := face.Embedding{3, 4, 0}.Normalise()
	b, _ := face.Embedding{4, 3, 0}.Normalise()
	fmt.Printf("%.2f %.2f\n", a.Cosine(b), a.Cosine(a))
	// Output: 0.96 1.00
}

// A vector of zeros would be equally close to everybody, so it is refused.
func ExampleEmbedding_Normalise() {
	_, err := make(face.Embedding, 4).Normalise()
	fmt.Println(err)
	// Output: face.Normalise: invalid_request: embedding has no length
}

// Ids name subjects, galleries and tenants. They need no escaping anywhere.
func ExampleValidID() {
	for _, id := range []string{"ada@example.org", "badge-4711", "", "../etc"} {
		fmt.Printf("%q %t\n", id, face.ValidID(id))
	}
	// Output:
	// "ada@example.org" true
	// "badge-4711" true
	// "" false
	// "../etc" false
}

// The secret is shown once; only its hash is kept.
func ExampleNewKey() {
	secret, key := face.NewKey(face.DefaultTenant, "door 1", []face.Scope{face.ScopeVerify}, time.Time{})
	fmt.Println(len(secret) > 20, key.Allows(face.ScopeVerify), key.Live(time.Now()))
	// Output: true true true
}
