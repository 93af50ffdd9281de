"""/v1/embeddings by the official client."""

import math

import openai
import pytest


def near(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_embeddings_of_texts_and_tokens_in_both_formats(server, client):
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The stock market fell on Monday."]
    made = client.embeddings.create(model="smollm2-135m", input=texts)  # the client asks for base64
    vectors = [one.embedding for one in made.data]
    assert [one.index for one in made.data] == [0, 1, 2]
    assert all(len(v) == 576 and math.isclose(near(v, v), 1, abs_tol=1e-5) for v in vectors)
    assert near(vectors[0], vectors[1]) > near(vectors[0], vectors[2])
    plain = client.embeddings.create(model="smollm2-135m", input=texts, encoding_format="float", dimensions=576)
    assert [one.embedding for one in plain.data] == vectors
    tokens = [server.post("/tokenize", {"text": text}).json()["tokens"] for text in texts]
    assert made.usage.prompt_tokens == made.usage.total_tokens == sum(map(len, tokens))
    assert [one.embedding for one in client.embeddings.create(model="smollm2-135m", input=tokens).data] == vectors
    assert client.embeddings.create(model="smollm2-135m", input=tokens[1]).data[0].embedding == vectors[1]
    last = client.embeddings.create(model="smollm2-135m", input=texts, extra_body={"pooling": "last"})
    assert all(near(a.embedding, b) < 0.99 for a, b in zip(last.data, vectors, strict=True))


def test_a_batch_larger_than_the_queue(client):
    made = client.embeddings.create(model="smollm2-135m", input=[[i + 1] for i in range(300)])
    assert [one.index for one in made.data] == list(range(300))
    assert made.data[4].embedding == client.embeddings.create(model="smollm2-135m", input=[5]).data[0].embedding


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"input": "Hi", "dimensions": 64}, "expected 576"), ({"input": []}, "empty"), ({"input": ["Hi", ""]}, r"input\[1\] is empty"),
        ({"input": [1, "a"]}, "mixed"), ({"input": [[1, 10**6]]}, "tokens from 0"), ({"input": ["a"] * 2049}, "2,048"),
        ({"input": "a " * 9000}, "9,001 tokens; expected 8,192"), ({"input": "Hi", "encoding_format": "int8"}, "encoding_format"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(client, body, said):
    with pytest.raises(openai.BadRequestError, match=said):
        client.embeddings.create(model="smollm2-135m", **body)
