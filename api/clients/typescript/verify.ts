// Compares two photos over HTTP, with types that openapi-typescript makes from
// the contract. It is checked by `tsc --strict`, and shows how to call the service.
import createClient from "openapi-fetch";
import type { components, paths } from "./likeness.js";

type Problem = components["schemas"]["Problem"];
type Verification = components["schemas"]["Verification"];
type Reason = components["schemas"]["Reason"];

type Outcome =
  | { kind: "same" | "different"; score: number; probability: number | undefined }
  | { kind: "another photo is needed"; reasons: Reason[] }
  | { kind: "try again" }
  | { kind: "refused"; code: Problem["code"]; detail: string };

export async function verify(server: string, key: string, probe: Blob, reference: Blob): Promise<Outcome> {
  const client = createClient<paths>({ baseUrl: server, headers: { Authorization: `Bearer ${key}` } });
  const { data, error } = await client.POST("/verify", {
    body: { face: "largest" },
    // A file would be a string in the generated types; so the photos join the form here.
    bodySerializer(body) {
      const form = new FormData();
      form.set("probe", probe);
      form.set("reference", reference);
      if (body.face !== undefined) form.set("face", body.face);
      return form;
    },
  });
  return error === undefined ? judge(data) : explain(error);
}

function judge(answer: Verification): Outcome {
  const box: { x: number; y: number; width: number; height: number } | undefined = answer.probe?.face.box;
  if (box !== undefined && box.width <= 0) throw new RangeError("a face has a width");
  return { kind: answer.match ? "same" : "different", score: answer.score, probability: answer.probability };
}

function explain(problem: Problem): Outcome {
  switch (problem.code) {
    case "no_face":
    case "many_faces":
    case "low_quality":
      return { kind: "another photo is needed", reasons: problem.reasons ?? [] };
    case "overloaded":
    case "unavailable":
    case "rate_limited":
      return { kind: "try again" };
    default: {
      const first = problem.errors?.[0];
      const detail = first === undefined ? (problem.detail ?? problem.title) : `${first.pointer}: ${first.detail}`;
      return { kind: "refused", code: problem.code, detail };
    }
  }
}

// What a wrong program must not pass.
export async function wrong(server: string): Promise<void> {
  const client = createClient<paths>({ baseUrl: server });
  // @ts-expect-error: there is no such rule
  await client.POST("/verify", { body: { face: "smallest" } });
  // @ts-expect-error: the gallery is missing
  await client.GET("/galleries/{gallery}", { params: { path: {} } });
  const { data } = await client.GET("/galleries/{gallery}/subjects", { params: { path: { gallery: "default" }, query: { limit: 10 } } });
  // @ts-expect-error: an answer may be absent
  data.items;
  const names: (string | undefined)[] = data?.items.map((subject) => subject.name) ?? [];
  void names;
}
