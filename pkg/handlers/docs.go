package handlers

import (
	"io"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/swaggest/swgui/v5emb"

	"github.com/likeness-id/likeness/api"
)

// docsHTML renders the contract with Swagger UI. swgui's own page has inline
// scripts, which the content security policy forbids; this one has none. Its
// links are relative, for a proxy may have put the page elsewhere.
const docsHTML = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Likeness</title>
<link rel="stylesheet" href="./docs/swagger-ui.css">
<link rel="icon" href="./docs/favicon-32x32.png">
<div id="contract"></div>
<script src="./docs/swagger-ui-bundle.js"></script>
<script src="./docs/start.js"></script>
</html>
`

const docsStart = `// Swagger UI fills each field of a form with a made-up value, and sends optional
// fields that are empty. They would contradict each other, so here a form begins
// empty, and what is empty is left out.
const emptyForms = () => ({
  components: { ParameterIncludeEmpty: () => null },
  afterLoad() {
    const sample = this.fn.getSampleSchema;
    this.fn.getSampleSchema = (schema, contentType, config, override) => {
      if (contentType === "multipart/form-data") return {};
      if (contentType !== false) return sample(schema, contentType, config, override);
      return (schema.get ? schema.get("type") : schema.type) === "array" ? [] : "";
    };
  },
});
SwaggerUIBundle({url: "./openapi.yaml", dom_id: "#contract", deepLinking: true, validatorUrl: null, plugins: [emptyForms]});
`

// docsPolicy lets the page load its own files and nothing else. Swagger UI
// sets styles on elements and draws its icons from data: URLs.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func (s *server) mountDocs(r chi.Router) {
	r.Get("/docs", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Security-Policy", docsPolicy)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte(docsHTML)) // the caller has gone
	})
	r.Get("/docs/start.js", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
		_, _ = w.Write([]byte(docsStart)) // the caller has gone
	})
	assets := v5emb.NewHandler("Likeness", "/openapi.yaml", "/docs")
	for _, name := range []string{"swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"} {
		r.Method(http.MethodGet, "/docs/"+name, assets)
	}
}

// contract shows the contract, with the server where callers find it.
func (s *server) contract(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	text := strings.Replace(api.Contract(), "\nservers:\n  - url: /\n", "\nservers:\n  - url: "+s.PathPrefix+"/\n", 1)
	_, _ = io.WriteString(w, text) // the caller has gone
}
