// Package deploy_test checks the deployment files without deploying them.
package deploy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.yaml.in/yaml/v4"
	"golang.org/x/mod/semver"

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/pkg/store/postgres"
)

// coming lists names that deploy/ uses and that the code does not have
// literally.
func coming() []string { return []string{"LIKENESS_DATABASE_PASSWORD_FILE"} }

type service struct {
	Image       string
	Build       any
	User        string
	Ports       []string
	Environment map[string]string
	Secrets     []string
	Networks    []string
	Volumes     []string
	ReadOnly    bool     `yaml:"read_only"`
	CapDrop     []string `yaml:"cap_drop"`
	CapAdd      []string `yaml:"cap_add"`
	Privileged  bool
	SecurityOpt []string `yaml:"security_opt"`
	Restart     string
	Healthcheck struct{ Test []string }
	DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
}

type compose struct {
	Services map[string]service
	Networks map[string]struct{ Internal bool }
	Volumes  map[string]any
	Secrets  map[string]struct{ File string }
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readYAML[T any](t *testing.T, name string) (v T) {
	t.Helper()
	if err := yaml.Unmarshal(readFile(t, name), &v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

func TestOnlyTheServerIsPublished(t *testing.T) {
	t.Parallel()
	file := readYAML[compose](t, "docker-compose.yml")
	for name, s := range file.Services {
		if name == "server" != (len(s.Ports) == 1) {
			t.Errorf("%s publishes %v", name, s.Ports)
		}
	}
	// The other file publishes the board for those who ask for it.
	board := readYAML[compose](t, "board.yml")
	if got := slices.Collect(maps.Keys(board.Services)); !slices.Equal(got, []string{"grafana"}) {
		t.Errorf("board.yml is about %v", got)
	}
	for _, f := range []compose{file, board} {
		for name, s := range f.Services {
			for _, port := range s.Ports {
				if !strings.HasPrefix(port, "127.0.0.1:") {
					t.Errorf("%s publishes %s, which is not on loopback", name, port)
				}
			}
		}
	}
	for _, n := range []string{"database", "metrics"} {
		if !file.Networks[n].Internal {
			t.Errorf("the network %s reaches the outside", n)
		}
	}
	for name, s := range file.Services {
		if name != "server" && slices.Contains(s.Networks, "front") || len(s.Networks) == 0 {
			t.Errorf("%s is in the networks %v", name, s.Networks)
		}
	}
}

func TestServicesAreHardened(t *testing.T) {
	t.Parallel()
	file := readYAML[compose](t, "docker-compose.yml")
	pinned := regexp.MustCompile(`^[a-z/-]+:v?\d+\.\d+\.\d+(-[a-z0-9-]+)?$`)
	for name, s := range file.Services {
		if !s.ReadOnly || s.Privileged || len(s.CapAdd) > 0 || !slices.Equal(s.CapDrop, []string{"ALL"}) ||
			!slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s is not hardened", name)
		}
		if own := name == "server" || name == "migrate"; own != strings.HasPrefix(s.Image, "likeness:") || !own && !pinned.MatchString(s.Image) {
			t.Errorf("%s runs the image %s", name, s.Image)
		}
		if name != "migrate" && len(s.Healthcheck.Test) == 0 {
			t.Errorf("%s has no health check", name)
		}
		for other := range s.DependsOn {
			if _, ok := file.Services[other]; !ok {
				t.Errorf("%s depends on %s, which is not there", name, other)
			}
		}
		for _, v := range s.Volumes {
			switch from, _, _ := strings.Cut(v, ":"); {
			case strings.HasPrefix(from, "./"):
				if _, err := os.Stat(from); err != nil || !strings.HasSuffix(v, ":ro") {
					t.Errorf("%s mounts %s: %v", name, v, err)
				}
			case strings.HasPrefix(from, "${"):
			default:
				if _, ok := file.Volumes[from]; !ok {
					t.Errorf("%s mounts the volume %s, which has no name", name, from)
				}
			}
		}
	}
	server, migrate := file.Services["server"], file.Services["migrate"]
	if got := server.DependsOn["migrate"].Condition; got != "service_completed_successfully" || migrate.Restart != "no" {
		t.Errorf("the server waits for migrate: %q, which restarts: %q", got, migrate.Restart)
	}
	if got := migrate.DependsOn["postgres"].Condition; got != "service_healthy" {
		t.Errorf("migrate waits for postgres: %q", got)
	}
	if server.Environment["LIKENESS_AUTH"] != "on" {
		t.Error("keys are not on")
	}
	if diff := cmp.Diff(server.Environment, migrate.Environment); diff != "" {
		t.Errorf("server and migrate do not mean the same database:\n%s", diff)
	}
}

func TestSecretsComeFromFiles(t *testing.T) {
	t.Parallel()
	file := readYAML[compose](t, "docker-compose.yml")
	for name, s := range file.Secrets {
		if s.File != "./secrets/"+name {
			t.Errorf("the secret %s lies in %s", name, s.File)
		}
		if !bytes.Contains(readFile(t, "secrets.sh"), []byte(name)) {
			t.Errorf("secrets.sh does not make %s", name)
		}
	}
	secret := regexp.MustCompile(`(?i)password|secret|token|key`)
	used := map[string]bool{}
	for name, s := range file.Services {
		for _, n := range s.Secrets {
			used[n] = true
			if _, ok := file.Secrets[n]; !ok {
				t.Errorf("%s wants the secret %s, which is not there", name, n)
			}
		}
		for k, v := range s.Environment {
			if in, ok := strings.CutPrefix(v, "/run/secrets/"); ok && !slices.Contains(s.Secrets, in) {
				t.Errorf("%s: %s names %s, which it is not given", name, k, v)
			} else if !ok && secret.MatchString(k) {
				t.Errorf("%s: %s is a literal secret", name, k)
			}
			if regexp.MustCompile(`://[^/@]*:[^/@]*@`).MatchString(v) {
				t.Errorf("%s: %s has a password in its URL", name, k)
			}
		}
	}
	for name := range file.Secrets {
		if !used[name] {
			t.Errorf("nobody uses the secret %s", name)
		}
	}
}

// The deployment, the tests and the server's warning agree on which versions of
// pgvector are safe.
func TestPgvectorIsSound(t *testing.T) {
	t.Parallel()
	find := func(name, pattern string) string {
		t.Helper()
		m := regexp.MustCompile(pattern).FindSubmatch(readFile(t, name))
		if m == nil {
			t.Fatalf("%s has no %s", name, pattern)
		}
		return string(m[1])
	}
	const script = "../scripts/postgres.sh"
	image := readYAML[compose](t, "docker-compose.yml").Services["postgres"].Image
	if got := find(script, `(?m)^image=(\S+)$`); got != image {
		t.Errorf("make postgres runs %s, and Compose %s", got, image)
	}
	least := find("../internal/pgdb/migrate.go", `soundPgvector = "([0-9.]+)"`)
	if got := find(script, `(?m)^least_vector=([0-9.]+)$`); got != least {
		t.Errorf("tests take pgvector %s, and the server warns of those before %s", got, least)
	}
	sources := regexp.MustCompile(`(?m)^(?:sources=')?([0-9.]+) [0-9a-f]{64}'?$`).FindAllSubmatch(readFile(t, script), -1)
	if len(sources) == 0 {
		t.Error("no source is pinned")
	}
	versions := []string{strings.Split(strings.TrimPrefix(image, "pgvector/pgvector:"), "-")[0]}
	for _, s := range sources {
		versions = append(versions, string(s[1]))
	}
	for _, v := range versions {
		if !semver.IsValid("v"+v) || semver.Compare("v"+v, "v"+least) < 0 {
			t.Errorf("pgvector %s is older than %s", v, least)
		}
	}
}

func TestSecretsScript(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secrets.sh"), readFile(t, "secrets.sh"), 0o700); err != nil {
		t.Fatal(err)
	}
	made := func() map[string]string {
		if out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "secrets.sh")).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		all := map[string]string{}
		for name := range readYAML[compose](t, "docker-compose.yml").Secrets {
			all[name] = string(readFile(t, filepath.Join(dir, "secrets", name)))
		}
		return all
	}
	first := made()
	if diff := cmp.Diff(first, made()); diff != "" {
		t.Errorf("secrets that are there changed:\n%s", diff)
	}
	values := map[string]bool{}
	for name, v := range first {
		values[v] = true
		if want := 48; name != "metrics_key" && len(v) != want {
			t.Errorf("%s has %d letters, want %d", name, len(v), want)
		}
	}
	if len(values) != len(first) {
		t.Error("two secrets are the same")
	}
	if i, err := os.Stat(filepath.Join(dir, "secrets")); err != nil || i.Mode().Perm() != 0o700 {
		t.Errorf("the folder of secrets: %v %v", i.Mode(), err)
	}
}

type panel struct {
	ID         int
	Title      string
	Type       string
	Datasource struct{ UID string }
	GridPos    struct{ X, Y, W, H int }
	Targets    []struct{ Expr string }
}

type board struct {
	UID, Title string
	Panels     []panel
}

func readBoard(t *testing.T) (b board) {
	t.Helper()
	if err := json.Unmarshal(readFile(t, "grafana/board.json"), &b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBoard(t *testing.T) {
	t.Parallel()
	source := readYAML[struct{ Datasources []struct{ UID, URL string } }](t, "grafana/provisioning/datasources/prometheus.yml")
	provider := readYAML[struct {
		Providers []struct{ Options struct{ Path string } }
	}](t, "grafana/provisioning/dashboards/likeness.yml")
	grafana := readYAML[compose](t, "docker-compose.yml").Services["grafana"]
	if at := "./grafana/board.json:" + provider.Providers[0].Options.Path + "/board.json:ro"; !slices.Contains(grafana.Volumes, at) {
		t.Errorf("the board is not where Grafana looks for it: %s is not in %v", at, grafana.Volumes)
	}
	if got := source.Datasources[0].URL; got != "http://prometheus:9090" {
		t.Errorf("the source is at %s", got)
	}
	b := readBoard(t)
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range b.Panels {
		if ids[p.ID] || p.Title == "" || len(p.Targets) == 0 || p.Datasource.UID != source.Datasources[0].UID {
			t.Errorf("panel %d %q: its id is taken, or it has no title, no query or not our source", p.ID, p.Title)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("panel %q lies over %q or the edge", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}

type alerts struct {
	Groups []struct {
		Rules []struct {
			Alert, Expr, For    string
			Labels, Annotations map[string]string
		}
	}
}

func TestPrometheus(t *testing.T) {
	t.Parallel()
	config := readYAML[struct {
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			JobName       string `yaml:"job_name"`
			Authorization struct {
				Type            string
				Credentials     string
				CredentialsFile string `yaml:"credentials_file"`
			}
			StaticConfigs []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}](t, "prometheus.yml")
	scrape := config.ScrapeConfigs[0]
	if a := scrape.Authorization; a.Type != "Bearer" || a.Credentials != "" || a.CredentialsFile != "/run/secrets/metrics_key" {
		t.Errorf("/metrics is read with %+v", a)
	}
	if !slices.Equal(scrape.StaticConfigs[0].Targets, []string{"server:8080"}) {
		t.Errorf("what is scraped is %v", scrape.StaticConfigs)
	}
	prometheus := readYAML[compose](t, "docker-compose.yml").Services["prometheus"]
	for _, f := range config.RuleFiles {
		if at := "./" + f + ":/etc/prometheus/" + f + ":ro"; !slices.Contains(prometheus.Volumes, at) {
			t.Errorf("%s is not mounted where Prometheus looks for it", f)
		}
		for _, g := range readYAML[alerts](t, f).Groups {
			for _, r := range g.Rules {
				if r.Alert == "" || r.Expr == "" || r.For == "" || r.Labels["severity"] == "" ||
					r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
					t.Errorf("the rule %q does not say all that it should", r.Alert)
				}
			}
		}
	}
}

// goSource is every file of Go that is linked into the commands.
func goSource(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	root := sharedtest.Root(t)
	for _, dir := range []string{"cmd", "pkg"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
				all.Write(readFile(t, path))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

// Metrics and settings that deploy/ names exist in the code.
func TestNamesAreThoseOfTheCode(t *testing.T) {
	t.Parallel()
	var used []string
	metric := regexp.MustCompile(`likeness_[a-z_]+`)
	series := regexp.MustCompile(`_(bucket|count|sum)$`)
	expressions := ""
	for _, g := range readYAML[alerts](t, "alerts.yml").Groups {
		for _, r := range g.Rules {
			expressions += r.Expr + "\n"
		}
	}
	for _, p := range readBoard(t).Panels {
		for _, q := range p.Targets {
			expressions += q.Expr + "\n"
		}
	}
	for _, m := range metric.FindAllString(expressions, -1) {
		used = append(used, series.ReplaceAllString(m, ""))
	}
	for _, s := range readYAML[compose](t, "docker-compose.yml").Services {
		for k := range s.Environment {
			if strings.HasPrefix(k, "LIKENESS_") {
				used = append(used, k)
			}
		}
	}
	code := goSource(t)
	slices.Sort(used)
	for _, name := range slices.Compact(used) {
		if !strings.Contains(code, `"`+name+`"`) && !slices.Contains(coming(), name) {
			t.Errorf("the code has no %s", name)
		}
	}
}

// If Compose is installed, it checks its own file.
func TestComposeAccepts(t *testing.T) {
	t.Parallel()
	if exec.CommandContext(t.Context(), "docker", "compose", "version").Run() != nil {
		t.Log("Docker Compose is not here; the other tests read its file")
		return
	}
	for _, files := range [][]string{{"docker-compose.yml"}, {"docker-compose.yml", "board.yml"}} {
		args := []string{"compose"}
		for _, f := range files {
			args = append(args, "-f", f)
		}
		cmd := exec.CommandContext(t.Context(), "docker", append(args, "config", "-q")...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", files, err, out)
		}
	}
}

// The script that sets Postgres up, the role that the server has then, and the
// two commands of the README that back up and restore.
func TestDatabaseSetUpBackupRestore(t *testing.T) {
	t.Parallel()
	bin := pgtest.BinDir(t)
	c := pgtest.Start(t, pgtest.Options{})
	dir := t.TempDir()
	word := filepath.Join(dir, "word")
	if err := os.WriteFile(word, []byte(`a'b"c\d $x`), 0o600); err != nil {
		t.Fatal(err)
	}
	script := strings.ReplaceAll(string(readFile(t, "postgres/10-likeness.sql")), "/run/secrets/database_password", word)
	tool := func(stdin []byte, c *pgtest.Cluster, name string, args ...string) []byte {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, name), append(args, "-d", c.URL("postgres"))...)
		cmd.Stdin = bytes.NewReader(stdin)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, stderr.String())
		}
		return out
	}
	tool([]byte(script), c, "psql", "-q", "-f", "-")

	own := func(c *pgtest.Cluster) string { // as the server has it: without a password
		return regexp.MustCompile(`//postgres:[^@]*@`).ReplaceAllString(c.URL("likeness"), "//likeness@")
	}
	if _, _, err := postgres.Migrate(t.Context(), own(c), word); err != nil {
		t.Fatalf("the server's role cannot migrate: %v", err)
	}
	super, err := pgx.Connect(t.Context(), c.URL("likeness"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = super.Close(context.WithoutCancel(t.Context())) })
	var mighty bool
	if err := super.QueryRow(t.Context(), "SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = 'likeness'").Scan(&mighty); err != nil || mighty {
		t.Errorf("the server's role may do more than its work (%v)", err)
	}
	if _, err := super.Exec(t.Context(), `INSERT INTO gallery (tenant, id, retention_days, store_images, created_at) VALUES ('default', 'kept', 0, false, now())`); err != nil {
		t.Fatal(err)
	}

	command := func(name string) []string {
		found := regexp.MustCompile(`(?m)exec -T postgres ` + name + ` -U postgres (.*?) (?:-d postgres <|likeness >)`).FindSubmatch(readFile(t, "README.md"))
		if found == nil {
			t.Fatalf("the README has no %s", name)
		}
		return strings.Fields(string(found[1]))
	}
	dump := exec.CommandContext(t.Context(), filepath.Join(bin, "pg_dump"), append(command("pg_dump"), "-d", c.URL("likeness"))...)
	b, err := dump.Output()
	if err != nil {
		t.Fatal(errors.Join(err, errors.New("pg_dump")))
	}
	if err := super.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	fresh := pgtest.Start(t, pgtest.Options{})
	tool([]byte(script), fresh, "psql", "-q", "-f", "-")
	for name, to := range map[string]*pgtest.Cluster{"this one": c, "a fresh one": fresh} {
		tool(b, to, "pg_restore", command("pg_restore")...)
		s, err := postgres.Open(t.Context(), postgres.Options{URL: own(to), PasswordFile: word})
		if err != nil {
			t.Fatalf("after a restore into %s: %v", name, err)
		}
		if err := s.AwaitReady(t.Context()); err != nil {
			t.Errorf("after a restore into %s: %v", name, err)
		}
		if _, err := s.Gallery(t.Context(), "default", "kept"); err != nil {
			t.Errorf("after a restore into %s: %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
