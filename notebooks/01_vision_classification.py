# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Classify images, from files on disk to a tested, exported model
#
# - **Input:** a folder with one sub-folder of images per class. To begin with, 1,797
#   handwritten digits, written to `data/digits` as image files.
# - **Time:** about a minute on two CPU cores.
# - **Result:** a small network, trained from scratch, that reads about 99 % of the
#   digits it has never seen; learning curves, a confusion matrix, its hardest cases,
#   and the model as safetensors and ONNX.
#
# *Run All* works as it is. **For your own images**, type their folder into *Data
# folder* of the form below, press *Apply*, and run the cells under it again. From a
# terminal: `nbutils run notebooks/01_vision_classification.ipynb
# -p data_dir=/path/to/images -p image_size=96`.

# %%
# Colab, Kaggle, RunPod: install nbutils beside what is there. Elsewhere: nothing to do.
import os
from importlib.util import find_spec
from subprocess import check_call
from sys import executable

SOURCE = "git+REPOSITORY_URL"  # the address of this repository, or a folder or a wheel
RENTED = {"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE", "RUNPOD_POD_ID"}
if RENTED & set(os.environ) and not find_spec("nbutils"):
    check_call([executable, "-m", "pip", "install", "-q", "--no-deps", SOURCE])

from nbutils.environment.install import complete

complete("vision", "export")  # packages that the cells below need, if they are missing

# %% tags=["parameters"]
# What to start from; the form further down can change every value.
preset = "vision/quick"  # nb.presets() lists all
smoke = False  # True: two steps on 120 images, to see in seconds that all cells work

# %%
# Look at this machine: devices, versions, space. A red line would stop a run later.
import nbutils as nb
from nbutils.recipes.vision import preview, yardstick

nb.doctor()

# %% [markdown]
# ## Decide
# The form shows every setting with its meaning. Change what you like and press
# *Apply*, or go on at once: the preset is already a complete configuration.
#
# The cell after it reads every image once, splits the files into training, validation
# and test, and makes the model. **Look at the pictures:** they are what the network
# gets, cropped and stretched at random, each under its class. Can *you* still read
# them?

# %%
wizard = nb.SetupWizard(preset="vision/smoke" if smoke else preset)

# %%
# The settings as they are now, the data and the model made from them.
config = wizard.config
task = nb.build_task(config)
preview(task)

# %% [markdown]
# ## Prove, then train
# The first cell tests data, model, loss and one update in seconds. **Look for** the
# verdict in the first line, then for the shapes, expected beside actual; `B` is the
# number of images in a batch. A red check stops *Run All* here, before any time is
# spent. Click a row for the reasons.
#
# The second cell is the long one. Interrupt it whenever you like: it saves, and run
# again it continues where it stopped. **Look at the curves:** training and validation
# loss should fall together; a widening gap means that the network learns by heart.

# %%
nb.preflight(task, config)

# %%
run = nb.TrainingCoordinator(task, config)
result = run.train()
result.plot()

# %% [markdown]
# ## Results on images it has never seen
# The first cell scores the test images. **Look for** dark squares off the diagonal of
# the confusion matrix: they are mistakes; the classes that suffer most stand beside
# it. Then come the pictures: the mistakes of which the network was most sure, and
# right answers that were close. Some of them are hard for people, too.
#
# The last cell saves the model for other programs, reads it back, and compares its
# outputs with the original. **Look for** differences of about 1e-6 or less.

# %%
scores = yardstick(run)
scores

# %%
# Score once more for the record, then save: the report holds all that you saw.
test = run.evaluate("test")
exported = run.export(formats=("safetensors", "onnx"))
print(f"test accuracy  {test['accuracy']:.2%}")
print(f"report         {run.report()}")
print(f"curves         {result.run_dir / 'figures' / 'curves.png'}")
print(f"model          {exported['onnx']}", exported, sep="\n\n")
