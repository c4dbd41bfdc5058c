"""Finds the documents nearest to a query, by TF-IDF and cosine similarity."""

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

DOCUMENTS = [
    "A container image is a stack of layers, each a tar archive.",
    "Lazy loading fetches a file when a program reads it for the first time.",
    "The kernel keeps what was read in the page cache.",
    "Bread is made of flour, water, salt and patience.",
]
QUERIES = ["when is a file fetched", "what is bread made of"]

vectorizer = TfidfVectorizer(stop_words="english")
index = vectorizer.fit_transform(DOCUMENTS)

for query in QUERIES:
    scores = cosine_similarity(vectorizer.transform([query]), index)[0]
    best = scores.argmax()
    print(f"{query}? {DOCUMENTS[best]}")
