"""Makes the sample data: drawn pictures of invented dogs, and a small CLIP that tells them apart."""

import sys
from pathlib import Path

from dogs import BREEDS, draw_dog


def draw_pictures(destination: Path, pictures_per_class: int = 24, seed: int = 0) -> None:
    """Write DESTINATION/<breed>/<number>.jpg; another seed gives other pictures of the same breeds."""
    for name, breed in BREEDS.items():
        folder = destination / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(pictures_per_class):
            draw_dog(breed, f"{seed}/{name}/{number}").save(folder / f"{number:03}.jpg", quality=88)


def make_clip(destination: Path, image_size: int = 224, patch_size: int = 32, seed: int = 0) -> None:
    """Write a whole CLIP of random weights as a Hugging Face directory, 64 numbers to an embedding.

    Random features of two pictures are nearly parallel; most of what they share is taken out through the bias of the
    last normalisation, so that similarities spread as those of a trained CLIP do.
    """
    import torch  # here, because drawing needs none of these
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from predictor.clip import quiet_transformers

    tower = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    words = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**tower, "image_size": image_size, "patch_size": patch_size, "projection_dim": 64}
    text = {**words, "vocab_size": 512, "bos_token_id": 510, "eos_token_id": 511, "projection_dim": 64}
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad(), quiet_transformers():
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=64)).eval()
        pictures = [draw_dog(breed, f"clip/{name}/{i}") for name, breed in BREEDS.items() for i in range(3)]
        shared = model.vision_model(**processor(pictures, return_tensors="pt")).pooler_output.mean(0)
        # Rounded, so that other processors and thread counts write the same file.
        model.vision_model.post_layernorm.bias.sub_(0.8 * shared.round(decimals=3))
        model.save_pretrained(destination)
        processor.save_pretrained(destination)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m sample DESTINATION  (writes DESTINATION/images and DESTINATION/clip)")
    draw_pictures(Path(sys.argv[1]) / "images")
    make_clip(Path(sys.argv[1]) / "clip")
